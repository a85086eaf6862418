# The third stage of FADA: a new network learns the second stage's soft labels of Cityscapes' training images. Settings
# of FADA/configs in the code of pAdaIN: crops of 1024x512, batch norms that train, 40,000 steps of a schedule of
# 41,250, tested at full size. First
# python tools/make_pseudo_labels.py segmentation/deeplabv2_r101-d8_fada_4xb1-40k_gtav2cityscapes-1280x720.py \
#     work_dirs/deeplabv2_r101-d8_fada_4xb1-40k_gtav2cityscapes-1280x720/iter_40000.pth \
#     data/cityscapes/pseudo_labels/fada --soft
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/gtav2cityscapes_1280x720.py',
    '../_base_/deeplabv2_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
model = dict(type='SelfDistillation', data_preprocessor=dict(size=(512, 1024)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSoftLabels'),
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 1024)),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=64,
        contrast_range=(0.5, 1.5),
        saturation_range=(0.5, 1.5),
        hue_delta=36,
    ),
    dict(type='PackSoftLabels'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')]
tta_pipeline = [dict(type='LoadImageFromFile'), _base_.tta_pipeline[-1]]  # at full size, too
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='StreetsDataset',
        layout='cityscapes',
        split='train',
        data_root='data/cityscapes',
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='pseudo_labels/fada'),
        seg_map_suffix='_soft.npz',
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=41250, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=5000)
