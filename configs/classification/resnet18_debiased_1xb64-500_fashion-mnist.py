# Fashion-MNIST, ResNet-18, shape-texture debiased (Li et al., ICLR 2021, arXiv:2010.05981): each batch a second time in
# the style of other images, by a styliser that needs no weights, with labels of both (gamma 0.8, as in the paper).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(recipe=dict(type='debiased', styliser='fourier', gamma=0.8))
