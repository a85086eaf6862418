# The same with pAdaIN after the backbone's convolutions, p = 0.01 (Nuriel et al., CVPR 2021, arXiv:2010.05785). In the
# authors' code the stem's layer acts on the image, before the first convolution.
_base_ = './deeplabv2_r101-d8_4xb2-20k_gtav2cityscapes-1280x720.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='padain', p=0.01))
