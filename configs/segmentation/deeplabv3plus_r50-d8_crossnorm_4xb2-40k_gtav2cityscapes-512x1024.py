# The baseline with CrossNorm behind the blocks, on average two of them at a time, p = 0.5 (Tang et al., ICCV 2021,
# arXiv:2102.02811).
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='crossnorm', p=0.5, active=2))
