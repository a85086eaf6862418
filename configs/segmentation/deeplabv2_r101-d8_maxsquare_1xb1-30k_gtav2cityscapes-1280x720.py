# MaxSquare (Chen, Xue & Cai, ICCV 2019, arXiv:1909.13589) from the network trained on the source; settings of the
# authors' scripts, which SNR's use too: one source and one target image a step, weight 0.1, five rounds of two epochs
# of 2,975 steps, in one run. The weight 0.09 and target images of 1280x640 do a little better, say the authors.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8_caffe.py',
    '../_base_/datasets/maxsquare_gtav2cityscapes_uda_1280x720.py',
    '../_base_/maxsquare_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
load_from = 'work_dirs/deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720/iter_80000.pth'
model = dict(type='MaxSquareUDA', target_weight=0.1)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=29760, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=29750, val_interval=5950)
