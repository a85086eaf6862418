# The adversarial stage of FADA (Wang et al., ECCV 2020, arXiv:2007.09222) in minutes on a CPU. The first stage is
# python tools/train.py quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py
_base_ = [
    '../_base_/models/deeplabv3plus_r18_small.py',
    '../_base_/datasets/toy_streets_uda_256x512.py',
    '../_base_/toy_uda_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
load_from = 'work_dirs/deeplabv3plus_r18-small_1xb8-240_toy-streets/iter_240.pth'
model = dict(type='FADA', discriminator=dict(channels=(64, 32)))
optim_wrapper = dict(
    constructor='AdversarialOptimWrapperConstructor',
    discriminator=dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.99))),
)
