# The baseline with EFDMix behind stages 1 and 2, p = 0.5, alpha = 0.1 (Zhang et al., CVPR 2022, arXiv:2203.07740).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='efdmix', p=0.5, alpha=0.1))
