# PACS, ResNet-18, leave one domain out: the recipe of the SNR authors (Jin et al., arXiv:2101.00588), after Epi-FCR:
# ImageNet weights, SGD 0.9, lr 1e-3, wd 1e-4, 32 images of each source domain per batch, 3001 iterations, lr constant.
# Chosen here: images resized to 224x224 and flipped; training on all images of the source domains, where the official
# split keeps some of them for choosing a model; testing on all images of the target domain, the last checkpoint counts.
# The unseen domain comes from the environment: PACS_TARGET=photo python tools/train.py ... (sketch by default). SNR is
# `--style snr`, after stages 1 to 3 and with the weight 0.01 for each loss, as in the authors' code.
_base_ = '../_base_/classification_runtime.py'
data_root = 'data/pacs'  # holds art_painting/, cartoon/, photo/, sketch/
target = '{{$PACS_TARGET:sketch}}'
model = dict(type='StyleNormClassifier', model='resnet18', num_classes=7, pretrained=True)

train_dataloader = dict(
    batch_size=96,
    num_workers=4,
    sampler=dict(type='DomainBalancedSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='DomainFolders',
        root=data_root,
        leave_out=[target],
        transform=[dict(type='Resize', size=(224, 224)), dict(type='RandomHorizontalFlip')],
    ),
)
val_dataloader = dict(
    batch_size=96,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='DomainFolders',
        root=data_root,
        domains=[target],
        transform=[dict(type='Resize', size=(224, 224))],
    ),
)
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='TopK', topk=(1,))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=1e-4))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3001, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000))
log_processor = dict(by_epoch=False)
