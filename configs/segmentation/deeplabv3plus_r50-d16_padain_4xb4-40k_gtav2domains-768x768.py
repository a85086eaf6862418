# The baseline with pAdaIN after the convolutions of the backbone, p = 0.01 (Nuriel et al., CVPR 2021,
# arXiv:2010.05785).
_base_ = './deeplabv3plus_r50-d16_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='padain', p=0.01))
