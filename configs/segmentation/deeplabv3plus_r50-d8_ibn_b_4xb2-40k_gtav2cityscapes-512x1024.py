# The baseline with IBN-b: instance norm in the stem and of the residual sums that end stages 1 and 2 (Pan et al.,
# ECCV 2018, arXiv:1807.09441). It starts from the plain ImageNet weights of the baseline, the authors from those of
# IBN-Net itself.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='ibn_b'))
