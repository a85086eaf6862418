# Fashion-MNIST, ResNet-18 with MixStyle behind stages 1 and 2, p = 0.5, alpha = 0.1 (Zhou et al., ICLR 2021,
# arXiv:2104.02008).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='mixstyle', p=0.5, alpha=0.1))
