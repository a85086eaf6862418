# The third stage on soft labels, which keep the probabilities of all classes; FADA's authors take hard ones. First
# python tools/make_pseudo_labels.py quickstart/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets.py \
#     work_dirs/deeplabv3plus_r18-small_fada_1xb4-240_toy-streets/iter_240.pth \
#     data/toy_streets/cityscapes/pseudo_labels/fada-soft --soft
_base_ = './deeplabv3plus_r18-small_fada-distill_1xb8-240_toy-streets.py'
model = dict(type='SelfDistillation')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSoftLabels'),
    *_base_.train_pipeline[2:-1],
    dict(type='PackSoftLabels'),
]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(seg_map_path='pseudo_labels/fada-soft'), seg_map_suffix='_soft.npz', pipeline=train_pipeline
    )
)
