# Drawn streets with unlabelled images of the real-ish domain's training set as the target in every batch.
_base_ = './toy_streets_256x512.py'
target_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResize', scale=(512, 256), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(160, 320)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type='UDADataset',
        source=dict(**_base_.game, ann_file='splits/train.txt', pipeline=_base_.train_pipeline),
        target=dict(
            type='StreetsDataset',
            layout='cityscapes',
            split='train',
            data_root=f'{_base_.data_root}/cityscapes',
            data_prefix=dict(img_path='leftImg8bit/train'),
            pipeline=target_pipeline,
        ),
    ),
)
