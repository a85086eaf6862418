# Domain generalisation from SYNTHIA: as gtav2domains_768x768.py, but for the images that are trained on, and with mIoU
# of the 16 classes that SYNTHIA has, and of the usual 13, for every domain.
# python tools/prepare_synthia.py data/synthia
_base_ = './gtav2domains_768x768.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='RandomResize', scale=(1280, 760), ratio_range=(0.5, 2.0), keep_ratio=True),
    *_base_.train_pipeline[3:],
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='StreetsDataset',
        layout='synthia',
        data_root='data/synthia',
        pipeline=train_pipeline,
    )
)
test_evaluator = dict(subsets=['mIoU16', 'mIoU13'])
