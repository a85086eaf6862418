# The baseline with ISW in the stem and after stages 1 and 2, weight 0.6, 3 clusters (Choi et al., CVPR 2021,
# arXiv:2103.15597). Pairs of channels are chosen after 6 epochs of 774 steps: those that react to the jitter of one
# whole image, in each of 10 trials of 500 images. Differs: the processes look at 500 images together and agree, where
# in the authors' code each looks at 500 and has a choice of its own.
_base_ = './deeplabv3plus_r50-d16_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='isw', loss_weight=0.6, clusters=3))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='ISWHook', begin=4644, images=500, trials=10, pipeline=_base_.whole_pipeline),
]
