"""CrossNorm and SelfNorm: exchange channel statistics in training, recalibrate them always.

Tang, Gao, Zhu, Zhang, Li, Metaxas, 'CrossNorm and SelfNorm for Generalization under Distribution Shifts', ICCV 2021,
arXiv:2102.02811.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional import adain, exchange_styles, instance_moments, restyle, style_affine
from ..functional.styles import unbiased_std
from .arguments import check, check_count, check_flag
from .base import RandomStyleLayer, StyleLayer, called, is_plain
from .owned import affine, statistics, update_running

if TYPE_CHECKING:
    from typing_extensions import Self


class CrossNorm(RandomStyleLayer):
    """Images exchange channel statistics: `functional.adain` of the batch and a permutation of it.

    x, y: (N, C, *spatial). Differentiated through content and style. The identity in evaluation.

    Differs from the authors' code, which draws a fixed number of layers once for each forward pass: here the layers
    draw independently, and the number that acts varies.

    Args:
        num_features: Not used; any layer can stand where a norm layer is built.
        p: Probability that a call acts, if the layer stands alone.
        active: Each of the layers that `add_style` puts into a model draws for itself, with the probability
            p * active / number of layers (at most p), so that active * p of them act on average in a forward pass;
            0: each with the probability `p`.
        crop: 'neither' takes the statistics of whole maps. 'style' takes the style's from a random box, 'content'
            restyles only a random box, 'both' does both. A box has a share of the map drawn from U(0, 1), the map's
            proportions and a random centre, and is cut at the border; it is drawn again until it covers more than a
            tenth of the map, at most 100 times.
        channels: Exchange within an image, between its channels (the paper's 1-instance mode), not between images.
        eps: Added to the unbiased variances.

    Raises:
        ValueError: `p` outside [0, 1], an unknown `crop`, or `active` below 0.
    """

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.5,
        active: int = 2,
        crop: str = 'neither',
        channels: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(p)
        if crop not in ('neither', 'style', 'content', 'both'):
            raise ValueError(f"CrossNorm: crop must be 'neither', 'style', 'content' or 'both', got {crop!r}")
        check(self, eps=eps)
        check_count(self, 0, active=active)
        check_flag(self, channels=channels)
        self.active, self.crop, self.channels, self.eps = active, crop, channels, eps

    @classmethod
    def configure_group(cls, layers: Sequence[Self]) -> None:
        for layer in layers:
            layer.p *= min(layer.active / len(layers), 1) if layer.active else 1

    def restyle(self, x: Tensor) -> Tensor:
        if not self.should_apply(x):
            return x
        axis = 1 if self.channels else 0
        perm = torch.randperm(x.shape[axis], device=x.device)
        if self.crop == 'neither':
            return exchange_styles(x, perm, axis, self.eps)
        style = x
        if self.crop in ('style', 'both'):
            box = (slice(None), slice(None), *_box(*x.shape[2:]))
            style = x[box]
        style = style.index_select(axis, perm)
        if self.crop == 'style':
            return adain(x, style, self.eps)
        y = x.clone()
        box = (slice(None), slice(None), *_box(*x.shape[2:]))
        y[box] = adain(x[box], style, self.eps)
        return y

    def extra_repr(self) -> str:
        return f'p={self.p}, crop={self.crop!r}, channels={self.channels}'


def _box(*sizes: int, least: float = 0.1, tries: int = 100) -> tuple[slice, ...]:
    """A random box that covers more than `least` of a map of these sizes; the whole map if none is found."""
    for _ in range(tries):
        side = (1 - float(torch.rand(()))) ** (1 / len(sizes))
        centre = [int(torch.randint(size, ())) for size in sizes]
        halves = [int(size * side) // 2 for size in sizes]
        ranges = [(max(c - half, 0), min(c + half, size)) for c, half, size in zip(centre, halves, sizes, strict=True)]
        if math.prod(stop - start for start, stop in ranges) > least * math.prod(sizes):
            return tuple(slice(*ends) for ends in ranges)
    return (slice(None),) * len(sizes)


_Gate = tuple[nn.Conv1d, _BatchNorm]


class SelfNorm(StyleLayer):
    """Recalibration of each channel's statistics by small gates that see its mean and deviation.

        y = g * x                            two=False: one gate for mean and deviation
        y = g * (x - m) + f * m              two=True:  the mean has a gate of its own
        g, f = sigmoid(BN(w1 * m + w2 * s)),   s = sqrt(u + 1e-12),  w1, w2 for each channel

    BN is over the batch in training, by running statistics in evaluation. x, y: (N, C, *spatial). A batch of one, which
    the authors' BatchNorm1d refuses, is gated by the running statistics in training too, and does not move them. The
    mode that counts is BN's own: helpers that freeze batch norms (mmseg's `norm_eval`) freeze these too.

    The convolutions and BN are computed within one kernel from their tensors while they are plain, and called where a
    host has changed them. Batch moments are not synchronised, not even where a converter has made a SyncBatchNorm of
    BN: each process normalises by its own images.

    Args:
        num_features: C.
        two: Whether the mean has its own gate.
        eps: Added to the unbiased variance.

    Raises:
        ValueError: `num_features` or `eps` not positive.
    """

    def __init__(self, num_features: int, two: bool = False, eps: float = 1e-12) -> None:
        super().__init__()
        check(self, num_features=num_features, eps=eps)
        check_flag(self, two=two)
        self.eps = eps
        for name in ('g', 'f')[: 1 + two]:
            self.add_module(f'{name}_fc', nn.Conv1d(num_features, num_features, 2, bias=False, groups=num_features))
            self.add_module(f'{name}_bn', nn.BatchNorm1d(num_features))
        self.gates = ('g', 'f')[: 1 + two]

    def restyle(self, x: Tensor) -> Tensor:
        gates: list[_Gate] = [(getattr(self, f'{g}_fc'), getattr(self, f'{g}_bn')) for g in self.gates]
        if not all(is_plain(fc, nn.Conv1d) and is_plain(bn, *_READ) for fc, bn in gates):
            return self._by_calls(x, gates)
        moments = [() if x.shape[0] > 1 and len(statistics(bn)) == 0 else _running(bn) for _, bn in gates]
        batched = [len(m) == 0 for m in moments]  # dynamo takes no `not` of tuples
        tensors = [t for (fc, bn), m in zip(gates, moments, strict=True) for t in (fc.weight, *affine(bn, x), *m)]
        rule = partial(
            _selfnorm_rule, count=x.shape[2:].numel(), batched=batched, eps=self.eps, bn_eps=[bn.eps for _, bn in gates]
        )
        if not any(batched):
            return style_affine(x, rule, *tensors)
        y, *moved = style_affine(x, rule, *tensors)
        learning = [bn for (_, bn), batch in zip(gates, batched, strict=True) if batch]
        for bn, mean, var in zip(learning, moved[::2], moved[1::2], strict=True):
            update_running(bn, mean, var, x.shape[0])
        return y

    def _by_calls(self, x: Tensor, gates: list[_Gate]) -> Tensor:
        """The same, where the modules must be called."""
        mean, var = instance_moments(x)
        small = torch.stack([mean, unbiased_std(var, x.shape[2:].numel(), self.eps)], -1)
        values = []
        for fc, bn in gates:
            z = called(fc, small)
            if z.shape[0] == 1 and _running(bn):
                z = F.batch_norm(z, bn.running_mean, bn.running_var, *affine(bn, z), eps=bn.eps)
            else:
                z = called(bn, z)
            values.append(z.flatten(1).sigmoid())
        shift = mean * (values[1] - values[0]) if len(values) == 2 else torch.zeros_like(mean)
        return restyle(x, values[0], shift)


_READ = (nn.BatchNorm1d, nn.SyncBatchNorm)


def _running(bn: _BatchNorm) -> tuple[Tensor, ...]:
    mean, var = getattr(bn, 'running_mean', None), getattr(bn, 'running_var', None)
    return () if mean is None or var is None else (mean, var)


def _selfnorm_rule(
    mean: Tensor, var: Tensor, *tensors: Tensor, count: int, batched: list[bool], eps: float, bn_eps: list[float]
) -> tuple[Tensor, ...]:
    """Each gate has its tensors: fc, weight, bias, and the running moments unless it is `batched`."""
    std = unbiased_std(var, count, eps)
    values, moments = [], []
    rest = iter(tensors)
    for batch, gate_eps in zip(batched, bn_eps, strict=True):
        fc, weight, bias = islice(rest, 3)
        z = mean * fc[:, 0, 0] + std * fc[:, 0, 1]
        b_mean, b_var = (z.mean(0), z.var(0, correction=0)) if batch else islice(rest, 2)
        if batch:
            moments += [b_mean.detach(), b_var.detach()]
        values.append(((z - b_mean) * (b_var + gate_eps).rsqrt() * weight + bias).sigmoid())
    shift = mean * (values[1] - values[0]) if len(values) == 2 else torch.zeros_like(mean)
    return values[0], shift, *moments
