# The whole chain in minutes on a CPU: trains on toy streets' game domain, validates on the unseen domain. Methods are
# added by `--style NAME [KEY=VALUE ...]`. From scratch, recipes are `--recipe advbn steps=3 step=0.4 lower=trainable`
# (what comes before the cut trains; half of the authors' ascent steps, twice as long) and `--recipe debiased
# styliser=pixel`, a styliser that needs no weights.
_base_ = [
    '../_base_/models/deeplabv3plus_r18_small.py',
    '../_base_/datasets/toy_streets_256x512.py',
    '../_base_/toy_schedule.py',
    '../_base_/stylenorm_runtime.py',
    'mmseg::_base_/default_runtime.py',
]
