# DeepLabV2 trained on Cityscapes at 1024x512 with 13 classes, and tested on a city of NTHU at that size: what MaxSquare
# starts from across cities, settings of the authors' script. One training serves all cities:
# NTHU_CITY=Rio python tools/test.py segmentation/deeplabv2_r101-d8_1xb1-80k_cityscapes2nthu-512x1024.py CHECKPOINT
_base_ = ['./deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720.py', '../_base_/datasets/nthu_13_classes.py']
model = dict(data_preprocessor=dict(size=(512, 1024)), decode_head=dict(num_classes=13))
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(**_base_.resize, scale=(1024, 512)),
    *_base_.train_pipeline[4:],
]
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.cityscapes, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.nthu, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
