"""The one kernel: take the instance moments of a feature map, ask a rule for an affine map, apply it.

    mean, var      = instance moments of x, each (N, C), over the spatial axes, biased
    scale, level   = rule(mean, var, *tensors), each (N, C)
    y              = (x - mean) * scale + level

Every style method is such a rule: by how much deviations grow, and where the mean goes. It is ordinary differentiable
arithmetic on small tensors; it may be evaluated again in the backward pass, so it must not draw random numbers (a draw
is passed in as one of the tensors). Autograd through it gives the gradients (gm, gv) of the moments, and

    dL/dx = scale * g + gm / n + 2 * gv * (x - mean) / n,        n = number of positions

so that the feature map itself is the only large tensor kept for the backward pass. On a CPU, whose kernels take
`x * scale + shift`, all small tensors are float64: a map whose mean is large beside its deviation leaves nothing of it
in a shift of float32. `backend.route` says which code computes: `cpu`, `cuda`, or the plain `formula`, which captured
graphs hold.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import backend, cpu
from .formula import Functions, Rule, plain, plain_moments, plain_restyle


def centred_affine(x: Tensor, rule: Rule, *tensors: Tensor, through_moments: bool = True) -> Any:
    """Restyle a feature map by the scale and the level that `rule` derives from its instance moments.

        y = (x - mean) * scale + level

    Args:
        x: Feature map, (N, C, *spatial), contiguous or channels last; the result has its dtype and memory format.
        rule: `rule(mean, var, *tensors) -> (scale, level, *extras)`. `mean` and `var`, biased, are (N, C), in float64
            (float32 in an exported graph and on a GPU); `scale` and `level` can be expanded to that. `extras` are
            further differentiable small results. It may be called once more in the backward pass and must give the same
            result there.
        *tensors: Parameters and draws that the rule uses. Floating point ones reach it in the dtype of `mean`.
        through_moments: Whether the gradient of `x` goes through its moments, too; otherwise they are constants.

    Returns:
        y of the shape of `x`; `(y, *extras)` when the rule returns extras, in float32 (float64 for float64 maps).

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
    """`y = x * scale + shift` by the scale and the shift that `rule` derives from the instance moments of `x`.

    `centred_affine` for rules that say where zero goes and not where the mean goes. That costs digits where means are
    large beside deviations and small tensors are float32, as on a GPU.

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
    from . import cuda  # only where it is needed: it registers operators

    return cuda.FUNCTIONS
