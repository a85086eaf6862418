# The adversarial stage of FADA (Wang et al., ECCV 2020, arXiv:2007.09222), settings of its code (JDAI-CV/FADA,
# configs): from the source stage, one source and one target image on each of four GPUs, class-balanced draws of the
# source and torchvision's jitter before it is scaled, a discriminator with its own Adam, 40,000 steps of a schedule of
# 62,500.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/gtav2cityscapes_uda_1280x720.py',
    '../_base_/deeplabv2_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
load_from = 'work_dirs/deeplabv2_r101-d8_4xb2-20k_gtav2cityscapes-1280x720/iter_20000.pth'
jitter = dict(type='ColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
train_pipeline = [*_base_.train_pipeline[:2], jitter, *_base_.train_pipeline[2:]]
train_dataloader = dict(dataset=dict(source=dict(pipeline=train_pipeline)))
model = dict(
    type='FADA',
    temperature=1.8,
    cap=0.9,
    adversarial_weight=0.001,
    backbone=dict(norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True),
)
optim_wrapper = dict(
    constructor='AdversarialOptimWrapperConstructor',
    discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99))),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=62500, by_epoch=False)]  # of both
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=5000)
