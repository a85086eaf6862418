# CIFAR-100, ResNet-18 with AugMix and its JSD loss: the recipe of Hendrycks et al. (ICLR 2020, arXiv:1912.02781; their
# cifar.py): SGD 0.9 with Nesterov, lr 0.1, wd 5e-4, batch 128, cosine to 1e-6 by iteration, 100 epochs, flip and crop,
# three views, weight 12. The pAdaIN authors kept it for CIFAR-100-C, with 200 epochs: `--style padain --cfg-options
# train_cfg.max_epochs=200 param_scheduler.end=200`. Differs: the networks are AllConv, DenseNet-40 (wd 1e-4), WRN-40-2
# and ResNeXt-29 there, which timm has not; the last checkpoint counts, where theirs keeps the one that is best on the
# test images.
_base_ = './resnet18_1xb128-100e_cifar100.py'
model = dict(aug_splits=3)
train_dataloader = dict(
    dataset=dict(
        transform=[
            dict(type='RandomHorizontalFlip'),
            dict(type='RandomCrop', size=32, padding=4),
            dict(type='AugSplits', splits=3, transforms=[dict(type='AugMix', severity=3, all_ops=False)]),
        ]
    )
)
