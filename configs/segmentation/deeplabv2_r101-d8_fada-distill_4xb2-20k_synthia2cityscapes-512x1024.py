# The third stage of FADA with the 16 classes of SYNTHIA. First
# python tools/make_pseudo_labels.py segmentation/deeplabv2_r101-d8_fada_4xb1-40k_synthia2cityscapes-1280x760.py \
#     work_dirs/deeplabv2_r101-d8_fada_4xb1-40k_synthia2cityscapes-1280x760/iter_40000.pth \
#     data/cityscapes/pseudo_labels/fada-synthia
_base_ = [
    './deeplabv2_r101-d8_fada-distill_4xb2-20k_cityscapes-512x1024.py',
    '../_base_/datasets/synthia_16_classes.py',
]
model = dict(decode_head=dict(num_classes=16))
train_dataloader = dict(dataset=dict(data_prefix=dict(seg_map_path='pseudo_labels/fada-synthia'), **_base_.shared))
val_dataloader = dict(dataset=_base_.shared)
test_dataloader = dict(dataset=_base_.shared)
val_evaluator = test_evaluator = dict(_delete_=True, **_base_.metric)
