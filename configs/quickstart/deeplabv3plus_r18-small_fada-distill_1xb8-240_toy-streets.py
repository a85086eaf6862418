# The third stage of FADA: a new network learns the second stage's labels of the target's training images. First
# python tools/make_pseudo_labels.py quickstart/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets.py \
#     work_dirs/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets/iter_240.pth \
#     data/toy_streets/cityscapes/pseudo_labels/fada
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='StreetsDataset',
        layout='cityscapes',
        split='train',
        data_root='data/toy_streets/cityscapes',
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='pseudo_labels/fada'),
        seg_map_suffix='_pseudo.png',
        pipeline=_base_.train_pipeline,
    )
)
