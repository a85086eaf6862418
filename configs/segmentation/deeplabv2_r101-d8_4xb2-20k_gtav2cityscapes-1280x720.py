# The source stage of FADA (Wang et al., ECCV 2020, arXiv:2007.09222), settings of its code and of pAdaIN's
# (JDAI-CV/FADA, onuriel/PermutedAdaIN, FADA/configs): class-balanced draws, frozen batch norms, 20,000 steps of a
# schedule of 31,250. pAdaIN is `--style padain`, p = 0.01; in the authors' code the stem's layer acts on the image,
# before the first convolution. DSU's authors train it here, too: `--style dsu`, p = 0.5, in six places (Li et al., ICLR
# 2022, arXiv:2202.03958); `--style mixstyle` and `--style efdmix` are likewise.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/gtav2cityscapes_1280x720.py',
    '../_base_/deeplabv2_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
model = dict(backbone=dict(norm_cfg=dict(type='BN', requires_grad=False), norm_eval=True))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=31250, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=20000, val_interval=5000)
