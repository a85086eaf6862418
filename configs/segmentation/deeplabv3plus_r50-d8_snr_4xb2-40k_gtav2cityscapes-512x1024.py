# The baseline with SNR after the backbone's first three stages and the dual causality loss per pixel.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(
    type='StyleNormEncoderDecoder',
    style=dict(type='snr', sites=('stage1', 'stage2', 'stage3'), num_classes=19, dense=True),
)
