# CIFAR-100, ResNet-18 with pAdaIN, p = 0.01, in the blocks only, as the authors' CIFAR ResNet (arXiv:2010.05785).
_base_ = './resnet18_1xb128-200e_cifar100.py'
model = dict(style=dict(type='padain', p=0.01, sites='layer?.*.conv?'))
