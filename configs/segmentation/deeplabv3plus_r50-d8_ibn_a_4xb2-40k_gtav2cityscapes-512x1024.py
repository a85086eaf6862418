# The baseline with IBN-a: instance norm for half of the first norm of every block of stages 1 to 3 (Pan et al., ECCV
# 2018, arXiv:1807.09441). It starts from the plain ImageNet weights of the baseline, the authors from those of IBN-
# Net itself.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='ibn_a'))
