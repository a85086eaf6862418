# Fashion-MNIST, ResNet-18 with DSU in the stem and behind every stage, p = 0.5 (Li et al., ICLR 2022,
# arXiv:2202.03958).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='dsu', p=0.5))
