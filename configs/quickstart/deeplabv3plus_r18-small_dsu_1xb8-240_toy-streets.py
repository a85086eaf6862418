# The baseline with DSU in the stem and behind every stage, p = 0.5 (Li et al., ICLR 2022, arXiv:2202.03958).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='dsu', p=0.5))
