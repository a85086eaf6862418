# The same with the images of Cityscapes' training set, at 1024x512, as the target in every batch.
_base_ = './gtav2cityscapes_1280x720.py'
target_pipeline = [*_base_.test_pipeline[:2], dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        _delete_=True,
        type='UDADataset',
        source=dict(type='GTA5Dataset', data_root='data/gta5', pipeline=_base_.train_pipeline),
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
