# The baseline with ISW: instance norm in the stem and after stages 1 and 2, and from iteration 24 on the whitening
# of the pairs of channels that react to photometric changes (Choi et al., CVPR 2021, arXiv:2103.15597).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='isw', loss_weight=0.6, clusters=3))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='ISWHook', begin=24, images=64, trials=2, pipeline=_base_.whole_pipeline),
]
