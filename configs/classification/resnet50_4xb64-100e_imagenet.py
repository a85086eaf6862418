# ImageNet, ResNet-50: the recipe of the IBN-Net authors (Pan et al., ECCV 2018, arXiv:1807.09441; their train.sh): SGD
# 0.9, lr 0.1, wd 1e-4, batch 256, 100 epochs, lr x0.1 after 30, 60 and 90, random resized crop and flip. IBN-a is
# `--style ibn_a`, IBN-b `--style ibn_b`.
_base_ = './resnet50_4xb64-300e_imagenet.py'
param_scheduler = dict(_delete_=True, type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)
train_cfg = dict(max_epochs=100)
