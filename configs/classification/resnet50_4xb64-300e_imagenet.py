# ImageNet, ResNet-50: the recipe of the pAdaIN authors (Nuriel et al., CVPR 2021, arXiv:2010.05785; their
# classification/imagenet.py and training_scripts.sh): SGD 0.9, lr 0.1, batch 256, wd 1e-4, 300 epochs, lr x0.1 every
# 75, random resized crop 224 and flip; tested on the centre 224x224 of images whose shorter side is 256.
# pAdaIN is `--style padain`. data_root holds train/<class>/*.JPEG and val/<class>/*.JPEG.
_base_ = '../_base_/classification_runtime.py'
data_root = 'data/imagenet'
model = dict(type='StyleNormClassifier', model='resnet50', num_classes=1000)

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=False,  # a resumed epoch then starts its workers with the same seeds
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='TimmDataset',
        root=data_root,
        split='train',
        transform=dict(input_size=224, is_training=True, color_jitter=None),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='TimmDataset', root=data_root, split='val', transform=dict(input_size=224, crop_pct=0.875)),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='TopK', topk=(1, 5))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='StepLR', by_epoch=True, step_size=75, gamma=0.1)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=256)
