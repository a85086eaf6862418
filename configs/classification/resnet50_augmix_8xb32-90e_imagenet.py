# ImageNet, ResNet-50 with AugMix and its JSD loss, as the CrossNorm and SelfNorm authors train CNSN + IBN + AugMix
# (their imagenet-scripts/run-cnsn-augmix.sh): the recipe of resnet50_4xb32-90e_imagenet.py with batch 256 and lr 0.1,
# three views, severity 1, weight 12. CrossNorm exchanges the styles of all views of a batch, with probability 0.5:
#   --style ibn_b --style selfnorm sites=blocks.residual --style crossnorm sites=input
_base_ = './resnet50_4xb32-90e_imagenet.py'
model = dict(aug_splits=3)
train_dataloader = dict(
    dataset=dict(
        transform=[
            dict(type='RandomResizedCrop', size=224),
            dict(type='RandomHorizontalFlip'),
            dict(type='AugSplits', splits=3, transforms=[dict(type='AugMix', severity=1, all_ops=False)]),
        ]
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
