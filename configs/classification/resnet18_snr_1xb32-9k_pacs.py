# PACS, ResNet-18 with SNR after stages 1 to 3, weight 0.01 for each of its losses: the recipe of the authors (Jin et
# al., arXiv:2101.00588; microsoft/SNR). As their baseline, but with an optimizer step for the 32 images of each source
# domain, in turn: 3 x 3001 steps of lr 1e-3 and wd 1e-4.
_base_ = './resnet18_1xb96-3k_pacs.py'
model = dict(style='snr')
train_dataloader = dict(batch_size=32, sampler=dict(run=32))
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=1e-4))
train_cfg = dict(max_iters=9003, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=3000))
