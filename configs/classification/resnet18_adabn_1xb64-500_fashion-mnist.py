# Fashion-MNIST, ResNet-18, tested with AdaBN: each style of test images with batch norm statistics of its own images,
# without their labels (Li et al., arXiv:1603.04779). Training is that of the baseline, and so are its checkpoints.
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
custom_imports = dict(imports=['timm_stylenorm.classification', 'timm_stylenorm.hooks'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='AdaBNHook')]
