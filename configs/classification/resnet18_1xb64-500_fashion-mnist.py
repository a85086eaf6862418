# Fashion-MNIST, ResNet-18 on 28x28 images: 8,000 training images, two minutes on one CPU core. The test set comes
# clean and in eight other styles (timm_stylenorm/evaluation/style_shifts.py). Schedule of this project, no paper's.
# Methods are added by `--style NAME [KEY=VALUE ...]`. From scratch, recipes are
# `--recipe advbn steps=3 step=0.4 lower=trainable` (half of the authors' ascent steps, twice as long) and
# `--recipe debiased styliser=fourier`; the authors of AdvBN fine-tune with a frozen lower part: `--recipe advbn
# --cfg-options model.init_checkpoint=CHECKPOINT optim_wrapper.optimizer.lr=0.005`.
_base_ = '../_base_/classification_runtime.py'
data_root = '/usr/share/datasets/fashion-mnist'  # Debian: apt-get install dataset-fashion-mnist
model = dict(
    type='StyleNormClassifier',
    model='resnet18',
    num_classes=10,
    data_preprocessor=dict(mean=(0.286,) * 3, std=(0.353,) * 3),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='FashionMNIST',
        root=data_root,
        split='train',
        limit=8000,
        transform=[dict(type='RandomHorizontalFlip')],
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='FashionMNIST', root=data_root, split='test', limit=2000),
)
shifts = ['contrast', 'bright', 'dark', 'gamma', 'inverted', 'blur', 'noise', 'texture']
clean = dict(type='FashionMNIST', root=data_root, split='test', limit=2000)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='MultiDomainDataset', domains=dict(clean=clean, **{shift: dict(clean, shift=shift) for shift in shifts})
    ),
)
seen_domains = ['clean']  # of the kind that is trained on, for `stylenorm compare`
val_evaluator = test_evaluator = dict(type='TopK', topk=(1,))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=500),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=500, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=250))
log_processor = dict(by_epoch=False)
