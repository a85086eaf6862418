# MaxSquare from the network with SNR (Jin et al., arXiv:2101.00588), without the dual causality loss like that one, of
# python tools/train.py segmentation/deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720.py --style snr num_classes=0
_base_ = './deeplabv2_r101-d8_maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py'
load_from = 'work_dirs/deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720_snr-num_classes0/iter_80000.pth'
model = dict(style=dict(type='snr', num_classes=0))
