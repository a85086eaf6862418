"""Style operations as pure functions of tensors; every random draw is an argument.

Notation: x is a feature map (N, C, *spatial); m, v its instance mean and biased variance, (N, C); n the number of
positions; u = v * n / (n - 1) the unbiased variance.
"""

from .adaptation import (
    entropy_loss,
    image_weighted_entropy_loss,
    image_weighted_max_square_loss,
    max_square_loss,
)
from .affine import centred_affine, instance_moments, restyle, style_affine
from .crossnorm import crop_box, crossnorm
from .domain_norm import NORM_FLOOR, domain_norm
from .efdmix import efdmix
from .losses import consistency_loss, covariance, dual_causality_loss, entropy, whitening_loss
from .styles import (
    adain,
    exchange_styles,
    instance_norm,
    mixstyle,
    permuted_adain,
    uncertain_style,
)

__all__ = [
    'NORM_FLOOR',
    'adain',
    'centred_affine',
    'consistency_loss',
    'covariance',
    'crop_box',
    'crossnorm',
    'domain_norm',
    'dual_causality_loss',
    'efdmix',
    'entropy',
    'entropy_loss',
    'exchange_styles',
    'image_weighted_entropy_loss',
    'image_weighted_max_square_loss',
    'instance_moments',
    'instance_norm',
    'max_square_loss',
    'mixstyle',
    'permuted_adain',
    'restyle',
    'style_affine',
    'uncertain_style',
    'whitening_loss',
]
