# The source stage of FADA with SYNTHIA at 1280x760 and its 16 classes. pAdaIN is `--style padain`.
_base_ = ['./deeplabv2_r101-d8_4xb2-20k_gtav2cityscapes-1280x720.py', '../_base_/datasets/synthia_16_classes.py']
model = dict(data_preprocessor=dict(size=(760, 1280)), decode_head=dict(num_classes=16))
train_pipeline = [*_base_.train_pipeline[:2], dict(**_base_.resize, scale=(1280, 760)), dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(_delete_=True, **_base_.synthia, pipeline=train_pipeline))
val_dataloader = dict(dataset=_base_.shared)
test_dataloader = dict(dataset=_base_.shared)
val_evaluator = test_evaluator = dict(_delete_=True, **_base_.metric)
