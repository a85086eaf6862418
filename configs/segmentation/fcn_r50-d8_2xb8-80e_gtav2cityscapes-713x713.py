# GTA5 to Cityscapes, FCN with ResNet-50: the recipe of the CrossNorm and SelfNorm authors (Tang et al., ICCV 2021,
# arXiv:2102.02811; segmentation/ of their code, after semseg): 80 epochs of batches of 16, SGD 0.9, lr 0.01 for the
# backbone and ten times that for the heads, poly decay 0.9, wd 1e-4, batch norms of each GPU for itself, an auxiliary
# loss of 0.4; scale 0.5 to 2, rotation by up to 10 degrees and blur for half of the images, flip, crops of 713.
#   baseline
#   SN    --style selfnorm sites=blocks.residual
#   CN    --style crossnorm active=1 crop=style
#   CNSN  --style selfnorm sites=blocks.residual --style crossnorm active=1 crop=style
# CrossNorm is after the last activation of a block, SelfNorm before its sum. All images that
# data/gta5/splits/train.txt lists, or all of GTA5, are trained on. Differs: the authors' list of training images is
# shorter than the official one; they report the epoch that is best on Cityscapes' validation set; their blur has
# windows of 5 pixels.
_base_ = [
    'mmseg::_base_/models/fcn_r50-d8.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/datasets/gtav2cityscapes_1280x720.py',
    '../_base_/stylenorm_runtime.py',
]
crop_size = (713, 713)
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    pretrained='torchvision://resnet50',
    backbone=dict(type='ResNet', norm_cfg=norm_cfg),
    decode_head=dict(norm_cfg=norm_cfg, num_convs=1, concat_input=False),
    auxiliary_head=dict(norm_cfg=norm_cfg),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(475, 475)),  # two thirds of a crop
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='RandomResize', scale=(1914, 1052), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomRotate', prob=0.5, degree=10, pad_val=(103.53, 116.28, 123.675), seg_pad_val=255),
    dict(type='RandomGaussianBlur', prob=0.5, sigma=(1.1, 1.1)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=8,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    drop_last=True,
    dataset=dict(ann_file='splits/train.txt', ann_missing_ok=True, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}),
)
param_scheduler = dict(
    type='PolyLR', power=0.9, eta_min=0.0, by_epoch=True, begin=0, end=80, convert_to_iter_based=True
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=80, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
log_processor = dict(by_epoch=True)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=True),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=True, interval=10),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
randomness = dict(seed=0)
