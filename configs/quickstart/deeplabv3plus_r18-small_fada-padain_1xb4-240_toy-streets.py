# The adversarial stage with pAdaIN: source features take over the styles of target images (Nuriel et al., CVPR 2021,
# arXiv:2010.05785). The first stage is
# python tools/train.py quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py --style padain p=0.05
_base_ = './deeplabv3plus_r18-small_fada_1xb4-240_toy-streets.py'
load_from = 'work_dirs/deeplabv3plus_r18-small_1xb8-240_toy-streets_padain-p0.05/iter_240.pth'
model = dict(style=dict(type='padain', p=0.01, mode='source_target'))
