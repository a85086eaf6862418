# The baseline with pAdaIN after the backbone's convolutions, p = 0.01 as in the paper.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='padain', p=0.01))
