# Fashion-MNIST, ResNet-18 with EFDMix behind stages 1 and 2, p = 0.5, alpha = 0.1 (Zhang et al., CVPR 2022,
# arXiv:2203.07740).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='efdmix', p=0.5, alpha=0.1))
