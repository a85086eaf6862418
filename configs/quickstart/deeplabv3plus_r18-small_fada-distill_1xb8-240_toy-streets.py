# The third stage of FADA: a new network learns the second stage's soft labels of the target's training images. First
# python tools/make_pseudo_labels.py quickstart/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets.py \
#     work_dirs/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets/iter_240.pth \
#     data/toy_streets/cityscapes/pseudo_labels/fada --soft
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='SelfDistillation')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSoftLabels'),
    dict(type='RandomResize', scale=(512, 256), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(160, 320)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSoftLabels'),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='StreetsDataset',
        layout='cityscapes',
        split='train',
        data_root='data/toy_streets/cityscapes',
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='pseudo_labels/fada'),
        seg_map_suffix='_soft.npz',
        pipeline=train_pipeline,
    )
)
