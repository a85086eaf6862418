# The baseline with IBN-b: instance norm in the stem and of the residual sums that end stages 1 and 2 (Pan et al.,
# ECCV 2018, arXiv:1807.09441).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='ibn_b'))
