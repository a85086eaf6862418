# The baseline with SelfNorm behind every block (Tang et al., ICCV 2021, arXiv:2102.02811).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='selfnorm'))
