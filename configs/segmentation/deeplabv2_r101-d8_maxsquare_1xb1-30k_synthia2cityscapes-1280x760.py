# MaxSquare from SYNTHIA at 1280x760 to Cityscapes, with 16 classes. Image-wise weights are
# --cfg-options model.image_weighted=True, MinEnt is model.target_loss=entropy. With SNR it is
# --style snr num_classes=0 --cfg-options \
#     load_from=work_dirs/deeplabv2_r101-d8_1xb1-80k_synthia2cityscapes-1280x760_snr-num_classes0/iter_80000.pth
_base_ = [
    './deeplabv2_r101-d8_maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py',
    '../_base_/datasets/synthia_16_classes.py',
]
load_from = 'work_dirs/deeplabv2_r101-d8_1xb1-80k_synthia2cityscapes-1280x760/iter_80000.pth'
model = dict(data_preprocessor=dict(size=(760, 1280)), decode_head=dict(num_classes=16))
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(**_base_.resize, scale=(1280, 760)),
    *_base_.train_pipeline[4:],
]
source = dict(_delete_=True, **_base_.synthia, pipeline=train_pipeline)
train_dataloader = dict(dataset=dict(source=source, target=_base_.shared))
val_dataloader = dict(dataset=_base_.shared)
test_dataloader = dict(dataset=_base_.shared)
val_evaluator = test_evaluator = dict(_delete_=True, **_base_.metric)
