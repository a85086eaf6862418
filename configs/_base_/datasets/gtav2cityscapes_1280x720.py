# GTA5, scaled to 1280x720 without cropping, for training, drawn by classes; Cityscapes at 1024x512, scored on its
# full-size labels: data as in FADA's code (core/datasets). Images are scaled by Pillow's bicubic filter, which, unlike
# OpenCV's, averages when it makes them smaller. The first run counts the pixels of each class in all labels and keeps
# them in data/gta5/class_pixels.json. --tta is the authors' test at three scales and mirrored.
resize = dict(type='Resize', interpolation='bicubic', backend='pillow')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(**resize, scale=(1280, 720)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(**resize, scale=(1024, 512)),
    dict(type='LoadTrainIds'),  # after the scaling, which it does not go through
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    *test_pipeline[:2],
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.7, 1.0, 1.3)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadTrainIds')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='ClassBalancedSampler'),
    dataset=dict(type='GTA5Dataset', data_root='data/gta5', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='StreetsDataset', layout='cityscapes', data_root='data/cityscapes', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
