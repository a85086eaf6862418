# Fashion-MNIST, ResNet-18 with SNR after stages 1 to 3 and its dual causality loss (Jin et al., arXiv:2101.00588).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='snr', sites=('stage1', 'stage2', 'stage3'), num_classes=10))
