# PACS, ResNet-18, leave one domain out: the baseline of the SNR authors (Jin et al., arXiv:2101.00588), after Epi-FCR:
# ImageNet weights, SGD 0.9, 32 images of each source domain per step, 3001 iterations, lr constant, batch norm
# statistics of ImageNet throughout, images resized to 224x224 without flip, the official split, the model that is best
# on the validation images of the source domains, which count alike. Their loss is the sum of those of three domains,
# with lr 1e-3 and wd 1e-4: the step of lr 3e-3 and wd 1e-4 / 3 on the mean. Tests take all images of the target domain.
# SNR has steps of its own: resnet18_snr_1xb32-9k_pacs.py. The unseen domain comes from the environment:
# PACS_TARGET=photo python tools/train.py ... (sketch by default). Without the lists of the split, whose absence the log
# tells, all images are trained on, and validated on.
_base_ = '../_base_/classification_runtime.py'
data_root = 'data/pacs'  # holds art_painting/, cartoon/, photo/, sketch/, and the lists, there or in splits/
target = '{{$PACS_TARGET:sketch}}'
model = dict(type='StyleNormClassifier', model='resnet18', num_classes=7, pretrained=True, norm_eval=True)
transform = [dict(type='Resize', size=(224, 224))]
source = dict(type='DomainFolders', root=data_root, leave_out=[target], split_missing_ok=True)

train_dataloader = dict(
    batch_size=96,
    num_workers=4,
    sampler=dict(type='DomainBalancedSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**source, split='train', transform=transform),
)
val_dataloader = dict(
    batch_size=96,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(**source, split='crossval', transform=transform),
)
test_dataloader = dict(
    batch_size=96,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='DomainFolders', root=data_root, domains=[target], transform=transform),
)
val_evaluator = test_evaluator = dict(type='TopK', topk=(1,))

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=3e-3, momentum=0.9, weight_decay=1e-4 / 3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=3001, val_interval=100)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000, save_best='accuracy/mean_top1'))
log_processor = dict(by_epoch=False)
