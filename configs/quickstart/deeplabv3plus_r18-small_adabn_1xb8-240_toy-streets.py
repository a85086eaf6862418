# The baseline, validated and tested with AdaBN: batch norm statistics of the images of the unseen domain, without their
# labels (Li et al., arXiv:1603.04779). Training is that of the baseline, and so are its checkpoints.
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
custom_hooks = [*_base_.custom_hooks, dict(type='AdaBNHook', on=('val', 'test'))]
