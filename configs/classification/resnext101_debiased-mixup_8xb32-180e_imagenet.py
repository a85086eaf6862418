# ImageNet, ResNeXt-101 32x4d with Mixup, shape-texture debiased: the authors' 180 epochs, lr 0.1, batch 256, lr x0.1
# after 60, 120 and 160, mixup 0.4, stylised images of 224 or 200 pixels.
_base_ = './resnet101_debiased_8xb32-100e_imagenet.py'
model = dict(model='resnext101_32x4d', recipe=dict(mixup=0.4, multi_grid=(60, 120, 160, 180), min_size=200))
param_scheduler = [_base_.warmup, dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.1)]
train_cfg = dict(max_epochs=180)
