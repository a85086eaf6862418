# The baseline, tested with AdaBN: batch norm statistics of the Cityscapes images it is tested on, without their labels
# (Li et al., arXiv:1603.04779). Training is that of the baseline, and so are its checkpoints.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
custom_hooks = [*_base_.custom_hooks, dict(type='AdaBNHook')]
