"""The operations on whole maps on a GPU: four operators that read and write the map in its own dtype.

    moments(x)                                            centre, var
    affine(x, scale, level, centre)                       (x - mean) * scale + level
    sums(g, x, centre)                                    sum(g), sum(g * (x - mean)) over the positions
    gradient(g, x, scale, slope, level, centre)           g * scale - (x - mean) * slope - level

A map is contiguous or channels last, and so is the result. All other tensors are small: (N, C), contiguous, float32
(float64 for float64 maps). The rows of `centre`, (1 or 2, N, C), add up to the mean: for channels-last maps, the second
row is the rounding error of the first.

On a GPU, contiguous maps use the primitives of SyncBatchNorm, with the view (1, N*C, L, 1), and channels-last maps use
the kernels of `triton_kernels`. On a CPU, a reference implementation computes the same in float64, for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .backend import is_channels_last, spatial

_EPS = 1e-12  # var is recovered from (var + eps) ** -0.5; eps must be negligible beside any real var
_TINY = 1e-20  # smaller scales are raised if other terms are divided by them


class Traffic(NamedTuple):
    """How often an operator reads and writes a whole map on a GPU, and how many small kernels it starts, at most."""

    reads: int
    writes: int
    small: int  # one more without a centre


TRAFFIC = {
    'moments': Traffic(1, 0, 3),
    'affine': Traffic(1, 1, 0),
    'sums': Traffic(2, 0, 1),
    'gradient': Traffic(2, 1, 7),
}


def _small_like(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _row(small: Tensor) -> Tensor:
    return small.reshape(-1)


def _as_channels(x: Tensor) -> Tensor:
    """A contiguous map as one image of N*C channels, (1, N*C, L, 1)."""
    return x.view(1, -1, x.shape[2:].numel(), 1)


def _centred(x: Tensor, centre: Tensor | None) -> Tensor:
    x = x.double()
    return x if centre is None else x - spatial(x, centre.double().sum(0))


def moments_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """Centre, (1 or 2, N, C), and biased variance, (N, C), of every channel of every image."""
    var, exact = torch.var_mean(x.double().flatten(2), -1, correction=0)
    mean = exact.to(_small_like(x))
    centre = torch.stack([mean, (exact - mean).to(mean)]) if is_channels_last(x) else mean[None]
    return centre, var.to(mean)


def moments_on_gpu(x: Tensor) -> tuple[Tensor, Tensor]:
    if is_channels_last(x):
        from . import triton_kernels

        return triton_kernels.moments(x.flatten(2))
    mean, rstd = torch.batch_norm_stats(_as_channels(x), _EPS)
    var = rstd.pow_(-2).sub_(_EPS).clamp_(min=0)
    return mean.view(1, *x.shape[:2]), var.view(x.shape[:2])


def _fake_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    var = x.new_empty(x.shape[:2], dtype=_small_like(x))
    return var.new_empty(1 + is_channels_last(x), *var.shape), var


def affine_reference(x: Tensor, scale: Tensor, level: Tensor | None, centre: Tensor | None) -> Tensor:
    """(x - mean) * scale + level, like x; without a centre the mean is 0, without a level the level is 0."""
    y = _centred(x, centre) * spatial(x, scale)
    return torch.empty_like(x).copy_(y if level is None else y + spatial(x, level))


def affine_on_gpu(x: Tensor, scale: Tensor, level: Tensor | None, centre: Tensor | None) -> Tensor:
    y = torch.empty_like(x)
    if is_channels_last(x):
        from . import triton_kernels

        triton_kernels.affine(x.flatten(2), y.flatten(2), scale, level, centre)
        return y
    mean = torch.zeros_like(scale) if centre is None else centre[0]
    bias = None if level is None else _row(level)
    torch.batch_norm_elemt(_as_channels(x), None, bias, _row(mean), _row(scale), 0.0, out=_as_channels(y))
    return y


def sums_reference(g: Tensor, x: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """sum(g) and sum(g * (x - mean)) over the positions, each (N, C)."""
    wide, small = g.double(), _small_like(x)
    total, dot = (t.flatten(2).sum(-1).to(small) for t in (wide, wide * _centred(x, centre)))
    return total, dot


def sums_on_gpu(g: Tensor, x: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    if is_channels_last(x):
        from . import triton_kernels

        return triton_kernels.sums(g.flatten(2), x.flatten(2), centre)
    shape = x.shape[:2]
    mean = x.new_zeros(shape.numel(), dtype=torch.float32) if centre is None else _row(centre[0])
    total, dot, _, _ = torch.batch_norm_backward_reduce(
        _as_channels(g), _as_channels(x), mean, mean, None, True, False, False  # the second mean is for rstd: unused
    )  # fmt: skip
    return total.view(shape), dot.view(shape)


def _fake_sums(g: Tensor, x: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    total = x.new_empty(x.shape[:2], dtype=_small_like(x))
    return total, torch.empty_like(total)


def gradient_reference(g: Tensor, x: Tensor, scale: Tensor, slope: Tensor, level: Tensor, centre: Tensor) -> Tensor:
    """g * scale - (x - mean) * slope - level, like x."""
    y = g.double() * spatial(x, scale) - _centred(x, centre) * spatial(x, slope) - spatial(x, level)
    return torch.empty_like(x).copy_(y)


def gradient_on_gpu(g: Tensor, x: Tensor, scale: Tensor, slope: Tensor, level: Tensor, centre: Tensor) -> Tensor:
    if is_channels_last(x):
        from . import triton_kernels

        y = torch.empty_like(x)
        triton_kernels.gradient(g.flatten(2), x.flatten(2), y.flatten(2), scale, slope, level, centre)
        return y
    weight = torch.add(scale, scale.abs() < _TINY, alpha=2 * _TINY)  # the other terms are divided by it
    one, count = torch.ones_like(_row(weight)), torch.ones(1, dtype=torch.int32, device=x.device)
    g, view, sum_g, sum_dot = _as_channels(g), _as_channels(x), _row(level / weight), _row(slope / weight)
    y = torch.batch_norm_backward_elemt(g, view, _row(centre[0]), one, _row(weight), sum_g, sum_dot, count)
    return y.view_as(x)


def _operator(schema: str, reference: Callable, on_gpu: Callable, fake: Callable) -> Callable:
    """Registers `stylenorm::NAME(...)`; a call costs a quarter of a call by `torch.library.custom_op`."""
    name = schema.partition('(')[0]
    torch.library.define(f'stylenorm::{name}', schema[len(name) :], tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(f'stylenorm::{name}', 'cpu', reference)
    torch.library.impl(f'stylenorm::{name}', 'cuda', on_gpu)
    torch.library.register_fake(f'stylenorm::{name}', fake)
    return getattr(torch.ops.stylenorm, name).default


moments = _operator('moments(Tensor x) -> (Tensor, Tensor)', moments_reference, moments_on_gpu, _fake_moments)
affine = _operator(
    'affine(Tensor x, Tensor scale, Tensor? level, Tensor? centre) -> Tensor',
    affine_reference,
    affine_on_gpu,
    lambda x, scale, level, centre: torch.empty_like(x),
)
sums = _operator(
    'sums(Tensor g, Tensor x, Tensor? centre) -> (Tensor, Tensor)', sums_reference, sums_on_gpu, _fake_sums
)
gradient = _operator(
    'gradient(Tensor g, Tensor x, Tensor scale, Tensor slope, Tensor level, Tensor centre) -> Tensor',
    gradient_reference,
    gradient_on_gpu,
    lambda g, x, scale, slope, level, centre: torch.empty_like(x),
)
