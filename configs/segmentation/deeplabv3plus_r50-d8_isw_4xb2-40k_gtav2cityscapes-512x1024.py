# The baseline with ISW: instance norm in the stem and after stages 1 and 2, and from iteration 4,000 on the whitening
# of the pairs of channels that react to photometric changes of whole images in each of 10 trials of 500 (Choi et al.,
# CVPR 2021, arXiv:2103.15597). The authors choose the pairs after 6 of some 52 epochs, which is about here, too.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='isw', loss_weight=0.6, clusters=3))
whole_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='ISWHook', begin=4000, images=500, trials=10, pipeline=whole_pipeline),
]
