# CIFAR-100, ResNet-18: the recipe of the CrossNorm and SelfNorm authors (Tang et al., ICCV 2021, arXiv:2102.02811;
# their cifar.py and cifar100-scripts): SGD 0.9 with Nesterov, lr 0.1, wd 5e-4, batch 128, cosine to 1e-6 by iteration,
# crop and flip, 100 epochs (WRN-40-2, AllConv) or 200 (ResNeXt-29, DenseNet: `--cfg-options train_cfg.max_epochs=200
# param_scheduler.end=200`). CrossNorm and SelfNorm are in every block; of WRN-40-2 two CrossNorms act in a quarter of
# the steps, of ResNeXt-29 one in half of them:
#   SN    --style selfnorm sites=blocks.sum
#   CN    --style crossnorm sites=blocks.sum crop=both active=2 p=0.25
#   CNSN  --style crossnorm sites=blocks.sum crop=both active=2 p=0.25 --style selfnorm sites=blocks.sum
#   with the consistency loss, CNSN with p=0.5 and --recipe crossnorm_consistency
# With AugMix: resnet18_augmix_1xb128-100e_cifar100.py with CNSN and --recipe crossnorm_consistency views=3.
# Differs: their networks are WRN-40-2, AllConv, ResNeXt-29 and DenseNet of CIFAR, which timm has not; the last
# checkpoint counts, where theirs keeps the one that is best on the test images.
_base_ = './resnet18_1xb128-200e_cifar100.py'
half = (0.5, 0.5, 0.5)
model = dict(data_preprocessor=dict(mean=half, std=half))
train_dataloader = dict(
    dataset=dict(transform=[dict(type='RandomCrop', size=32, padding=4), dict(type='RandomHorizontalFlip')])
)
optim_wrapper = dict(optimizer=dict(nesterov=True), clip_grad=None)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=True, end=100, eta_min=1e-6, convert_to_iter_based=True
)
train_cfg = dict(max_epochs=100)
