# CIFAR-100, ResNet-18: the recipe of the BIN authors (Nam and Kim, NeurIPS 2018, arXiv:1805.07925): SGD 0.9, lr 0.1, wd
# 1e-4, batch 128, 164 epochs, lr x0.1 after 81 and 122, crop and flip. BIN is `--style bin`: the gates then learn at
# ten times the rate, without decay, and are kept within [0, 1]. Differs: their networks are AlexNet, VGG-19, ResNet-56
# and -110, WRN-28-10 and others of CIFAR, which timm has not.
_base_ = './resnet18_1xb128-200e_cifar100.py'
train_dataloader = dict(
    dataset=dict(
        transform=[dict(type='RandomCrop', size=32, padding=4), dict(type='RandomHorizontalFlip')],
    )
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), clip_grad=None)
param_scheduler = dict(_delete_=True, type='MultiStepLR', by_epoch=True, milestones=[81, 122], gamma=0.1)
train_cfg = dict(max_epochs=164)
