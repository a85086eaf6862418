# MaxSquare (Chen, Xue & Cai, ICCV 2019, arXiv:1909.13589) in minutes on a CPU, after the source-only training:
# python tools/train.py quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py
_base_ = [
    '../_base_/models/deeplabv3plus_r18_small.py',
    '../_base_/datasets/toy_streets_uda_256x512.py',
    '../_base_/toy_uda_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
load_from = 'work_dirs/deeplabv3plus_r18-small_1xb8-240_toy-streets/iter_240.pth'
model = dict(type='MaxSquareUDA', target_weight=0.1)
