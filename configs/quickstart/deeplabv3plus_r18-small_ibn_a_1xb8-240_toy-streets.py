# The baseline with IBN-a: instance norm for half of the first norm of every block of stages 1 to 3 (Pan et al., ECCV
# 2018, arXiv:1807.09441).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='ibn_a'))
