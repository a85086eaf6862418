# Domain generalisation from GTA5 by the protocol of Rein (Wei et al., CVPR 2024, arXiv:2312.04265) and its code: all of
# GTA5 in crops of 512; Cityscapes at 1024x512, BDD100K at 1280x720, scored on full-size labels; Mapillary at half its
# size and scored on labels of that, but shown within 1024x512. Their networks slide over the images: to a config with
# these data belongs model = dict(test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341))).
# python tools/prepare_mapillary.py data/mapillary --mapping rein
# Differs: halves of odd sizes are rounded up, where their tool truncates, and not compressed as JPEG once more.
_base_ = './gtav2domains_768x768.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(
        type='RandomChoiceResize',
        scales=[int(51.2 * k) for k in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048,
    ),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1024, 512), keep_ratio=True),
    dict(type='LoadTrainIds'),  # after the scaling, which it does not go through
    dict(type='PackSegInputs'),
]
bdd100k_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(1280, 720), keep_ratio=True),
    *test_pipeline[2:],
]
mapillary_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='Resize', scale_factor=0.5, keep_ratio=False, interpolation='bicubic', backend='pillow'),
    dict(type='ScoreAsShown'),
    dict(type='KeyMapper', mapping=dict(img='img', seg_fields=...), transforms=[test_pipeline[1]]),  # the image alone
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(ann_file='', pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(
    dataset=dict(
        pipeline=test_pipeline,
        keep=['bdd100k', 'mapillary'],
        domains=dict(
            cityscapes=dict(pipeline=test_pipeline),
            bdd100k=dict(pipeline=bdd100k_pipeline),
            mapillary=dict(pipeline=mapillary_pipeline),
        ),
    ),
)
