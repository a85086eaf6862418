# The same with SNR after the backbone's first three stages (Jin et al., arXiv:2101.00588), without the dual causality
# loss, which the authors' training for segmentation lacks. There its layers are in no optimizer, too; here they train.
_base_ = './deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', num_classes=0))
