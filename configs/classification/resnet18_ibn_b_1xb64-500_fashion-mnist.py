# Fashion-MNIST, ResNet-18 with IBN-b: instance norm in the stem and of the residual sums that end stages 1 and 2 (Pan
# et al., ECCV 2018, arXiv:1807.09441).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='ibn_b'))
