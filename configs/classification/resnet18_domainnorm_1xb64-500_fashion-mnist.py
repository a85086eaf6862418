# Fashion-MNIST, ResNet-18 with DomainNorm for all batch norms (Zhang et al., ECCV 2020, arXiv:1911.13287).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='domainnorm'))
