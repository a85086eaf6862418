# ImageNet, ResNet-101, shape-texture debiased: as ResNet-50, with lr 0.1 and batch 256.
_base_ = './resnet50_debiased_8xb64-100e_imagenet.py'
model = dict(model='resnet101')
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
