# The adversarial stage with pAdaIN: source features take over the styles of target images (Nuriel et al., CVPR 2021,
# arXiv:2010.05785), p = 0.01. The first stage is
# python tools/train.py segmentation/deeplabv2_r101-d8_4xb2-20k_gtav2cityscapes-1280x720.py --style padain
_base_ = './deeplabv2_r101-d8_fada_4xb1-40k_gtav2cityscapes-1280x720.py'
load_from = 'work_dirs/deeplabv2_r101-d8_4xb2-20k_gtav2cityscapes-1280x720_padain/iter_20000.pth'
model = dict(style=dict(type='padain', p=0.01, mode='source_target'))
