# Fashion-MNIST, ResNet-18 with BIN for all batch norms, its gates in parameter groups of their own: ten times the
# learning rate, no weight decay, kept in [0, 1] (Nam and Kim, NeurIPS 2018, arXiv:1805.07925).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='bin'))
optim_wrapper = dict(constructor='GateOptimWrapperConstructor')
