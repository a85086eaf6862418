# MaxSquare from Cityscapes to a city of NTHU at 1024x512 with 13 classes, ten epochs of 2,975 steps, settings of the
# authors' script. The environment names the city: NTHU_CITY=Rio, Rome by default. Image-wise weights are
# --cfg-options model.image_weighted=True
_base_ = [
    './deeplabv2_r101-d8_maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py',
    '../_base_/datasets/nthu_13_classes.py',
]
work_dir = f'work_dirs/deeplabv2_r101-d8_maxsquare_1xb1-30k_cityscapes2nthu-512x1024_{_base_.city}'
load_from = 'work_dirs/deeplabv2_r101-d8_1xb1-80k_cityscapes2nthu-512x1024/iter_80000.pth'
model = dict(data_preprocessor=dict(size=(512, 1024)), decode_head=dict(num_classes=13))
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(**_base_.resize, scale=(1024, 512)),
    *_base_.train_pipeline[4:],
]
images = dict(split='Train', data_prefix=dict(img_path='Images/Train'))
train_dataloader = dict(
    dataset=dict(
        source=dict(_delete_=True, **_base_.cityscapes, pipeline=train_pipeline),
        target=dict(_delete_=True, **_base_.nthu, **images, pipeline=_base_.target_pipeline),
    )
)
val_dataloader = dict(dataset=dict(_delete_=True, **_base_.nthu, pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
