# DeepLabV2 trained on GTA5 alone, as in the code of MaxSquare (ZJULearning/MaxSquareLoss) and SNR (microsoft/SNR): one
# image a step, mirrored and blurred at random, 80,000 steps of a schedule of 200,000, batch norms that train. SNR is
# `--style snr num_classes=0`, without the dual causality loss, which the authors' training for segmentation lacks.
# There its layers are in no optimizer, too; here they train, as fast as the stage that they follow.
_base_ = [
    '../_base_/models/deeplabv2_r101-d8_caffe.py',
    '../_base_/datasets/maxsquare_gtav2cityscapes_1280x720.py',
    '../_base_/maxsquare_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=200000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=5000)
