# The baseline with AdvBN (Shu et al., NeurIPS 2021, arXiv:2009.08965) behind stage 1, 6 ascent steps, ImageNet weights
# below it frozen. The authors have released no code for segmentation; all else is the baseline's.
_base_ = './deeplabv3plus_r101-d8_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', recipe=dict(type='advbn', cut='stage1', steps=6))
