# DeepLabV2 trained on SYNTHIA alone at 1280x760, with its 16 classes, as MaxSquare's and SNR's code allows. They
# publish no script for it; all but size and classes is their GTA5's. SNR is `--style snr num_classes=0`.
_base_ = ['./deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720.py', '../_base_/datasets/synthia_16_classes.py']
model = dict(data_preprocessor=dict(size=(760, 1280)), decode_head=dict(num_classes=16))
train_pipeline = [
    *_base_.train_pipeline[:3],
    dict(**_base_.resize, scale=(1280, 760)),
    *_base_.train_pipeline[4:],
]
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.synthia, pipeline=train_pipeline))
val_dataloader = dict(dataset=_base_.shared)
test_dataloader = dict(dataset=_base_.shared)
val_evaluator = test_evaluator = dict(_delete_=True, **_base_.metric)
