# The same with the images of Cityscapes' training set, at 1024x512, mirrored and blurred too, as the target.
_base_ = './maxsquare_gtav2cityscapes_1280x720.py'
target_pipeline = [
    dict(type='LoadImageFromFile'),
    _base_.mirror,
    dict(**_base_.resize, scale=(1024, 512)),
    _base_.blur,
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='UDADataset',
        source=dict(
            type='GTA5Dataset',
            data_root='data/gta5',
            ann_file='splits/train.txt',
            ann_missing_ok=True,
            pipeline=_base_.train_pipeline,
        ),
        target=dict(
            type='StreetsDataset',
            layout='cityscapes',
            split='train',
            data_root='data/cityscapes',
            data_prefix=dict(img_path='leftImg8bit/train'),
            pipeline=target_pipeline,
        ),
    ),
)
