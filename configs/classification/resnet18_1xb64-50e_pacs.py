# PACS, ResNet-18, leave one domain out: the recipe of MixStyle, EFDMix and DSU (Zhou et al., arXiv:2104.02008, and
# their Dassl): ImageNet weights, SGD 0.9, lr 1e-3, wd 5e-4, batch 64, 50 epochs, cosine, 224x224, flip, a translation
# for half of the images, the official split, the last checkpoint. `--style mixstyle`, `--style efdmix`, `--style dsu`;
# MixStyle between domains is `--style mixstyle mix=crossdomain`.
_base_ = './resnet18_1xb96-3k_pacs.py'
model = dict(norm_eval=False)
translation = [dict(type='Resize', size=(252, 252)), dict(type='RandomCrop', size=224)]
train_dataloader = dict(
    batch_size=64,
    drop_last=True,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
    dataset=dict(
        transform=[
            dict(type='Resize', size=(224, 224)),
            dict(type='RandomHorizontalFlip'),
            dict(type='RandomApply', transforms=translation, p=0.5),
        ]
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=5e-4))
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=50)
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
