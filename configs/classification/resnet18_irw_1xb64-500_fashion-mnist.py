# Fashion-MNIST, ResNet-18 with instance whitening in the stem and behind stages 1 and 2, its loss with margin (Choi
# et al., CVPR 2021, arXiv:2103.15597).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='irw', loss_weight=0.6))
