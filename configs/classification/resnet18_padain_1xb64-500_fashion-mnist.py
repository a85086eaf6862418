# Fashion-MNIST, ResNet-18 with pAdaIN, p = 0.01 (Nuriel et al., CVPR 2021, arXiv:2010.05785).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='padain', p=0.01))
