# ImageNet, ResNet-50, shape-texture debiased: the recipe of the authors (Li et al., ICLR 2021, arXiv:2010.05981, and
# LiYingwei/ShapeTextureDebiasedTraining): alpha 0.5, gamma 0.8, SGD 0.9, lr 0.2, wd 1e-4, batch 512 on 8 GPUs, 100
# epochs, 5 of them warm-up, lr x0.1 after 30, 60 and 90; stylised images of 224, 158 or 112 pixels by a fixed schedule
# (their --multi_grid). The styliser reads data/adain/vgg_normalised.pth and data/adain/decoder.pth: from the release of
# naoto0804/pytorch-AdaIN, or made by `python tools/train_styliser.py IMAGES --out data/adain`. Tests go without:
# --cfg-options model.recipe.styliser=pixel
_base_ = './resnet50_4xb64-300e_imagenet.py'
model = dict(recipe=dict(type='debiased', styliser='adain', alpha=0.5, gamma=0.8, multi_grid=(30, 60, 90, 100)))
optim_wrapper = dict(optimizer=dict(lr=0.2))
warmup = dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True)
param_scheduler = [warmup, dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)]
train_cfg = dict(max_epochs=100)
auto_scale_lr = dict(base_batch_size=512)
