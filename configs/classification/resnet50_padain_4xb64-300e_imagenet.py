# ImageNet, ResNet-50 with pAdaIN, p = 0.01 (Nuriel et al., CVPR 2021, arXiv:2010.05785, and the authors' code).
_base_ = './resnet50_4xb64-300e_imagenet.py'
model = dict(style=dict(type='padain', p=0.01))
