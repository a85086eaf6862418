# Fashion-MNIST, ResNet-18 with CrossNorm behind the blocks, on average two of them at a time, p = 0.5 (Tang et al.,
# ICCV 2021, arXiv:2102.02811).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='crossnorm', p=0.5, active=2))
