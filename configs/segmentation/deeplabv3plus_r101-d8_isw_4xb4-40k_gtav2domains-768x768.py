# The same with ResNet-101 at output stride 8, and ISW at the first two norms of its stem and after stages 1 and 2, as
# in the authors' scripts (Choi et al., CVPR 2021, arXiv:2103.15597).
_base_ = './deeplabv3plus_r101-d8_4xb4-40k_gtav2domains-768x768.py'
model = dict(
    type='StyleNormEncoderDecoder',
    style=dict(type='isw', loss_weight=0.6, clusters=3, sites=('stem.1', 'stem.4', 'stage1.sum', 'stage2.sum')),
)
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='ISWHook', begin=4644, images=500, trials=10, pipeline=_base_.whole_pipeline),
]
