# The baseline with DSU in the stem and behind every stage, p = 0.5 (Li et al., ICLR 2022, arXiv:2202.03958).
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='dsu', p=0.5))
