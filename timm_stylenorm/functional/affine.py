"""The one kernel: compute the instance moments of a feature map, get an affine map from a rule, and apply it.

    mean, var      = instance moments of x, each (N, C), over the spatial axes, biased
    scale, level   = rule(mean, var, *tensors), each (N, C)
    y              = (x - mean) * scale + level

Every style method is such a rule: it says by how much deviations from the mean grow, and where the mean goes. A rule
is ordinary differentiable arithmetic on small tensors. It may be evaluated again in the backward pass, so it must not
draw random numbers (draws are passed in as tensors). Autograd through the rule computes the gradients (gm, gv) of the
moments, and

    dL/dx = scale * g + gm / n + 2 * gv * (x - mean) / n,        n = number of positions

so the feature map itself is the only large tensor kept for the backward pass. On a CPU, whose kernels compute
`x * scale + shift`, all small tensors are float64: if the mean of a map is large compared with its deviation, a float32
shift cannot represent the deviation. `backend.route` chooses the code: `cpu`, `cuda`, or the plain `formula`, which
captured graphs contain.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import backend, cpu
from .formula import Functions, Rule, plain, plain_moments, plain_restyle


def centred_affine(x: Tensor, rule: Rule, *tensors: Tensor, through_moments: bool = True) -> Any:
    """Restyle a feature map with the scale and the level that `rule` derives from its instance moments.

        y = (x - mean) * scale + level

    Args:
        x: Feature map, (N, C, *spatial), contiguous or channels last; the result has its dtype and memory format.
        rule: `rule(mean, var, *tensors) -> (scale, level, *extras)`. `mean` and `var`, biased, are (N, C), in float64
            (float32 in an exported graph and on a GPU); `scale` and `level` can be expanded to that shape. `extras`
            are further small differentiable results. The rule may be called once more in the backward pass and must
            return the same result there.
        *tensors: Parameters and draws that the rule uses. Floating point tensors are passed to it in the dtype of
            `mean`.
        through_moments: Whether the gradient of `x` also flows through its moments; otherwise they are constants.

    Returns:
        y in the shape of `x`; `(y, *extras)` if the rule returns extras, in float32 (float64 for float64 maps).

    Raises:
        ValueError: `x` has no spatial axis.
    """
    if x.dim() < 3:
        raise ValueError(f'centred_affine: expected a feature map (N, C, *spatial), got shape {tuple(x.shape)}')
    route = backend.route(x)
    if route == 'plain':
        results = plain(x, rule, through_moments, *tensors)
    else:
        results = _functions(route).centred_affine.apply(x, rule, through_moments, *tensors)
    return results if len(results) > 1 else results[0]


def style_affine(x: Tensor, rule: Rule, *tensors: Tensor) -> Any:
    """`y = x * scale + shift` with the scale and the shift that `rule` derives from the instance moments of `x`.

    `centred_affine` for rules that return where zero goes, not where the mean goes. This loses digits if means are
    large compared with deviations and small tensors are float32, as on a GPU.

    Args:
        x: See `centred_affine`.
        rule: `rule(mean, var, *tensors) -> (scale, shift, *extras)`; the rest as in `centred_affine`.
        *tensors: See `centred_affine`.

    Returns:
        As `centred_affine`.
    """

    def centred(mean: Tensor, var: Tensor, *small: Tensor) -> tuple[Tensor, ...]:
        scale, shift, *extras = rule(mean, var, *small)
        return scale, shift + mean * scale, *extras

    return centred_affine(x, centred, *tensors)


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of every image, differentiable.

    Args:
        x: Feature map, (N, C, *spatial).

    Returns:
        mean, var: each (N, C), float32 (float64 for float64 maps).
    """
    if x.dim() < 3:
        raise ValueError(f'instance_moments: expected a feature map (N, C, *spatial), got shape {tuple(x.shape)}')
    route = backend.route(x)
    if route == 'plain':
        return plain_moments(x)
    return _functions(route).moments.apply(x)


def restyle(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`y = x * scale + shift` with one scale and shift for each channel of each image.

    Args:
        x: Feature map, (N, C, *spatial).
        scale: (N, C).
        shift: (N, C).

    Returns:
        y in the dtype and memory format of `x`.
    """
    route = backend.route(x)
    if route == 'plain':
        return plain_restyle(x, scale, shift)
    return _functions(route).restyle.apply(x, scale, shift)


def _functions(route: str) -> Functions:
    if route == 'cpu':
        return cpu.FUNCTIONS
    from . import cuda  # only if it is needed: it registers operators

    return cuda.FUNCTIONS
