# Fashion-MNIST, ResNet-18 with SelfNorm behind every block (Tang et al., ICCV 2021, arXiv:2102.02811).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='selfnorm'))
