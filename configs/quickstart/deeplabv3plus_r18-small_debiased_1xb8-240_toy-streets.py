# The baseline with shape-texture debiased training (Li et al., ICLR 2021, arXiv:2010.05981): each batch a second time
# in the style of other images, by a styliser that needs no weights. Label maps are those of the shape: gamma is 1.
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', recipe=dict(type='debiased', styliser='pixel', gamma=1.0))
