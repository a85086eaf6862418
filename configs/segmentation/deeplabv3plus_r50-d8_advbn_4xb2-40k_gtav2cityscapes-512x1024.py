# The baseline with AdvBN (Shu et al., NeurIPS 2021, arXiv:2009.08965) after the backbone's first stage: 6 ascent steps
# of 0.2 within 1.1, dual batch norms after the cut and in the heads, ImageNet weights before it frozen. They have
# no code for segmentation; all else is the baseline's.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', recipe=dict(type='advbn', cut='stage1', steps=6))
