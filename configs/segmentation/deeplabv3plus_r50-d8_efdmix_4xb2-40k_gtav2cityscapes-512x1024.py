# The baseline with EFDMix behind stages 1 and 2, p = 0.5, alpha = 0.1 (Zhang et al., CVPR 2022, arXiv:2203.07740).
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='efdmix', p=0.5, alpha=0.1))
