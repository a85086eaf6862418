# The baseline with MixStyle behind stages 1 and 2, p = 0.5, alpha = 0.1 (Zhou et al., ICLR 2021, arXiv:2104.02008).
_base_ = './deeplabv3plus_r50-d16_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='mixstyle', p=0.5, alpha=0.1))
