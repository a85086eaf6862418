# ImageNet, ResNeXt-101 32x4d with CutMix, shape-texture debiased: the authors' 210 epochs, lr 0.1, batch 256, lr x0.1
# after 75, 150 and 180, cutmix 1, stylised images of full size.
_base_ = './resnet101_debiased_8xb32-100e_imagenet.py'
model = dict(model='resnext101_32x4d', recipe=dict(cutmix=1.0, multi_grid=None))
param_scheduler = [_base_.warmup, dict(type='MultiStepLR', by_epoch=True, milestones=[75, 150, 180], gamma=0.1)]
train_cfg = dict(max_epochs=210)
