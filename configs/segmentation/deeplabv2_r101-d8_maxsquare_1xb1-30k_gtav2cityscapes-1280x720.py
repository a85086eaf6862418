# MaxSquare (Chen, Xue & Cai, ICCV 2019, arXiv:1909.13589) from the network trained on the source; settings as in the
# authors' code and its use in SNR: one source and one target image a step, weight 0.1, and as many steps as their five
# rounds of two epochs of Cityscapes' 2,975 images, in one run.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8.py',
    '../_base_/datasets/gtav2cityscapes_uda_1280x720.py',
    '../_base_/deeplabv2_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
load_from = 'work_dirs/deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720/iter_80000.pth'
model = dict(type='MaxSquareUDA', target_weight=0.1)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=30000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=30000, val_interval=5000)
