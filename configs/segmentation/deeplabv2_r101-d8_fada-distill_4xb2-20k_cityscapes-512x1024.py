# The third stage of FADA: a new network learns the second stage's labels of Cityscapes' training images, the most
# probable class of each pixel, by plain cross entropy. Settings of its code (JDAI-CV/FADA, configs): crops of 1024x512,
# jitter, batch norms that train, 20,000 steps of a schedule of 31,250, tested at full size. First
# python tools/make_pseudo_labels.py segmentation/deeplabv2_r101-d8_fada_4xb1-40k_gtav2cityscapes-1280x720.py \
#     work_dirs/deeplabv2_r101-d8_fada_4xb1-40k_gtav2cityscapes-1280x720/iter_40000.pth \
#     data/cityscapes/pseudo_labels/fada
# Not the authors': soft labels, as the toy streets' fada-soft-distill config has them.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/gtav2cityscapes_1280x720.py',
    '../_base_/deeplabv2_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=(512, 1024)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='ColorJitter', brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2),
    dict(
        type='RandomResize',
        scale=(2048, 1024),
        ratio_range=(0.5, 1.5),
        keep_ratio=True,
        interpolation='bicubic',
        backend='pillow',
    ),
    dict(type='RandomCrop', crop_size=(512, 1024)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')]
tta_pipeline = [dict(type='LoadImageFromFile'), _base_.tta_pipeline[-1]]  # at full size, too
train_dataloader = dict(
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='StreetsDataset',
        layout='cityscapes',
        split='train',
        data_root='data/cityscapes',
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='pseudo_labels/fada'),
        seg_map_suffix='_pseudo.png',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=31250, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=5000)
