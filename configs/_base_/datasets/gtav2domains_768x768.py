# Domain generalisation from GTA5: trains on it, validates on Cityscapes, and tests on several domains in one run.
# Protocol after RobustNet (Choi et al., CVPR 2021, arXiv:2103.15597) and its code: half of the epoch are crops around
# classes, each as often as the others; crops of 768 at scales of 0.5 to 2, colour jitter for half of the images, blur
# for all; whole images at a single scale in the test, and the mean over Cityscapes, BDD100K and Mapillary. The official
# training split is taken where data/gta5/splits/train.txt lists it (RobustNet's list has 12,388 images), otherwise all
# 24,966 images, and the log says so. Differs: of Mapillary's pictures that are narrower than 1536 their code cuts off a
# part and counts the padding as road; here the whole picture is scored, and nothing else.
# The other domains wait for --cfg-options test_dataloader.dataset.only="['cityscapes','acdc_fog']".
# docs/datasets.md says what is where, and how it is prepared.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='RandomScaleCrop', crop_size=(768, 768), ratio_range=(0.5, 2.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.5),
    dict(type='RandomGaussianBlur', prob=1.0, sigma=(0.15, 1.3)),
    dict(type='PackSegInputs'),
]
whole_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]  # ISW chooses its pairs of channels by it
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadTrainIds'), dict(type='PackSegInputs')]
mapillary_pipeline = [  # as RobustNet: the height becomes 1536, then the middle square, scored at that size
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='ResizeHeight', height=1536),
    dict(type='CenterCrop', crop_size=1536, auto_pad=True, pad_cfg=dict(type='Pad', pad_val=dict(img=0, seg=255))),
    dict(type='ScoreAsShown'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadTrainIds')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
street = dict(type='StreetsDataset', pipeline=test_pipeline, complete=True)
cityscapes = dict(**street, layout='cityscapes', data_root='data/cityscapes')
acdc = dict(**street, data_root='data/acdc')
conditions = ['acdc_fog', 'acdc_night', 'acdc_rain', 'acdc_snow']
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='ClassUniformSampler', share=0.5, tile=1024),
    dataset=dict(
        type='GTA5Dataset',
        data_root='data/gta5',
        ann_file='splits/train.txt',
        ann_missing_ok=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=cityscapes,
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='MultiDomainDataset',
        pipeline=test_pipeline,  # mmseg's tools read it here, and replace it
        keep=['mapillary'],
        only=['cityscapes', 'bdd100k', 'mapillary'],
        domains=dict(
            cityscapes=cityscapes,
            bdd100k=dict(**street, layout='bdd100k', data_root='data/bdd100k'),
            mapillary=dict(
                type='StreetsDataset',
                layout='mapillary',
                data_root='data/mapillary',
                pipeline=mapillary_pipeline,
                complete=True,
            ),
            synthia=dict(**street, layout='synthia', data_root='data/synthia'),
            **{condition: dict(**acdc, layout=condition) for condition in conditions},
            dark_zurich=dict(**street, layout='dark_zurich', data_root='data/dark_zurich'),
            night_driving=dict(**street, layout='night_driving', data_root='data/night_driving'),
        ),
    ),
)
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = dict(
    type='DomainIoUMetric',
    means=dict(mean=['cityscapes', 'bdd100k', 'mapillary'], mean_acdc=conditions),
    pools=dict(acdc=conditions),  # as the ACDC benchmark counts: all its images as one set
    subsets=dict(synthia=['mIoU16', 'mIoU13']),
)
