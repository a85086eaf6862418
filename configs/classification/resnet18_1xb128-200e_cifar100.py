# CIFAR-100, ResNet-18: the recipe of the pAdaIN authors (arXiv:2010.05785), who train with weiaicunzai's
# pytorch-cifar100: SGD 0.9, lr 0.1, wd 5e-4, batch 128, one epoch of warm-up, lr x0.2 at 60, 120 and 160, gradient norm
# clipped at 5, random crop, flip, rotation. The net has that code's 3x3 stem without pooling (`small_images`); its
# shortcut convolutions and widths are the same. Differs: 200 epochs, where the authors' loop ends after 199, and the
# last checkpoint counts, where theirs keeps the one that is best on the test images. pAdaIN, in all 17 convolutions of
# the stem and the blocks, is `--style padain`.
_base_ = '../_base_/classification_runtime.py'
data_root = 'data/cifar100'  # torchvision downloads it there at the first run
model = dict(
    type='StyleNormClassifier',
    model='resnet18',
    num_classes=100,
    small_images=True,
    data_preprocessor=dict(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
)

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='TimmDataset',
        name='torch/cifar100',
        root=data_root,
        download=True,
        split='train',
        transform=[
            dict(type='RandomCrop', size=32, padding=4),
            dict(type='RandomHorizontalFlip'),
            dict(type='RandomRotation', degrees=15),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='TimmDataset', name='torch/cifar100', root=data_root, download=True, split='val'),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='TopK', topk=(1, 5))

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=5),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=128)
