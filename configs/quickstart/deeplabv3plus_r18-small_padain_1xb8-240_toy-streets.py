# The baseline with pAdaIN after the backbone's convolutions.
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='padain', p=0.05))
