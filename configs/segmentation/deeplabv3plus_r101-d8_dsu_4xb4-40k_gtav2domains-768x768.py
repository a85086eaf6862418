# The baseline with DSU in the stem and behind every stage, p = 0.5 (Li et al., ICLR 2022, arXiv:2202.03958).
_base_ = './deeplabv3plus_r101-d8_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='dsu', p=0.5))
