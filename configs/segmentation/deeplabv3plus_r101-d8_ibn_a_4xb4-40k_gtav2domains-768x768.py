# The baseline with IBN-a, instance norm for half of the first norm of every block of stages 1 to 3 (Pan et al., ECCV
# 2018, arXiv:1807.09441), from plain ImageNet weights.
_base_ = './deeplabv3plus_r101-d8_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='ibn_a'))
