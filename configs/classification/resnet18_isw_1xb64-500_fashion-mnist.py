# Fashion-MNIST, ResNet-18 with ISW: instance norm in the stem and after stages 1 and 2, and from iteration 50 on the
# whitening of the pairs of channels that react to photometric changes (Choi et al., CVPR 2021, arXiv:2103.15597).
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(style=dict(type='isw', loss_weight=0.6, clusters=3))
custom_hooks = [*_base_.custom_hooks, dict(type='ISWHook', begin=50, images=256, trials=2)]
