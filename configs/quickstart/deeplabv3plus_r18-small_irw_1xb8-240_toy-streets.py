# The baseline with instance whitening in the stem and behind stages 1 and 2, its loss with margin (Choi et al., CVPR
# 2021, arXiv:2103.15597).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='irw', loss_weight=0.6))
