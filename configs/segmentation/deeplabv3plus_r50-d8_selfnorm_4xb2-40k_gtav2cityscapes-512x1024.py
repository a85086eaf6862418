# The baseline with SelfNorm behind every block (Tang et al., ICCV 2021, arXiv:2102.02811).
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='selfnorm'))
