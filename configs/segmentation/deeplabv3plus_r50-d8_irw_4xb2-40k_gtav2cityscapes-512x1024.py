# The baseline with instance whitening in the stem and behind stages 1 and 2, its loss with margin (Choi et al., CVPR
# 2021, arXiv:2103.15597).
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='irw', loss_weight=0.6))
