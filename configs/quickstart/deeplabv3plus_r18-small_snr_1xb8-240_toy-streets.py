# The baseline with SNR after the backbone's first three stages.
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(
    type='StyleNormEncoderDecoder',
    style=dict(type='snr', sites=('stage1', 'stage2', 'stage3'), num_classes=19, dense=True),
)
