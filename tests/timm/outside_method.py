"""A method that is added from outside: `pytest -p outside_method test_contracts.py` runs the contracts on it."""

import timm_stylenorm
from timm_stylenorm.functional import style_affine
from timm_stylenorm.layers import StyleLayer
from timm_stylenorm.layers.base import RandomStyleLayer


class Halfway(RandomStyleLayer):
    """Channel statistics half way to those of the next image, with probability p, in training."""

    def __init__(self, num_features: int, p: float = 0.5, eps: float = 1e-5) -> None:
        super().__init__(p)
        self.eps = eps

    def restyle(self, x):
        return style_affine(x, self.rule) if self.should_apply(x) else x

    def rule(self, mean, var):
        deviation = (var + self.eps).sqrt()
        target_mean, target = (torch_half(value) for value in (mean, deviation))
        scale = target / deviation
        return scale, target_mean - mean * scale


def torch_half(value):
    return (value + value.roll(1, 0)) / 2


NAMES = timm_stylenorm.register_method(
    'halfway', Halfway, ('stage1', 'stage2'), summary='half way to the next image', paper='nobody, nowhere'
)
assert issubclass(Halfway, StyleLayer)
