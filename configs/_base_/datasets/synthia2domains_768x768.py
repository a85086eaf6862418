# Domain generalisation from SYNTHIA: as gtav2domains_768x768.py, but for the images that are trained on, and with mIoU
# of the 16 classes that SYNTHIA has, and of the usual 13, for every domain. Images are drawn without regard to their
# classes: its pictures of 1280x760 have no whole tile of 1024, so that RobustNet's code finds no class in them.
# python tools/prepare_synthia.py data/synthia
_base_ = './gtav2domains_768x768.py'
train_dataloader = dict(
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        _delete_=True,
        type='StreetsDataset',
        layout='synthia',
        data_root='data/synthia',
        ann_file='splits/train.txt',
        ann_missing_ok=True,
        pipeline=_base_.train_pipeline,
    ),
)
test_evaluator = dict(subsets=['mIoU16', 'mIoU13'])
