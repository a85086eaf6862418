# The baseline with shape-texture debiased training (Li et al., ICLR 2021, arXiv:2010.05981), which is for classifiers
# there: each batch a second time in the style of other images, by the amplitudes of low frequencies (Yang & Soatto,
# CVPR 2020, arXiv:2004.05498). Label maps are those of the shape: gamma is 1.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(
    type='StyleNormEncoderDecoder',
    recipe=dict(type='debiased', styliser=dict(type='fourier', beta=0.01), gamma=1.0),
)
