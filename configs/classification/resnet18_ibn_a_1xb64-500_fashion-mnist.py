# Fashion-MNIST, ResNet-18 with IBN-a: instance norm for half of the first norm of every block of stages 1 to 3 (Pan
# et al., ECCV 2018, arXiv:1807.09441).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='ibn_a'))
