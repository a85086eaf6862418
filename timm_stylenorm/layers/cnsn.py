"""CrossNorm exchanges channel statistics in training; SelfNorm always recalibrates them.

Tang, Gao, Zhu, Zhang, Li, Metaxas, 'CrossNorm and SelfNorm for Generalization under Distribution Shifts', ICCV 2021,
arXiv:2102.02811.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional import centred_affine, crop_box, crossnorm, instance_moments, restyle
from ..functional.crossnorm import Box
from ..functional.styles import unbiased_std
from .arguments import check, check_count, check_flag, check_range
from .base import RandomStyleLayer, StyleLayer, called, is_plain
from .choice import Choice
from .owned import affine, statistics, update_running

if TYPE_CHECKING:
    from typing_extensions import Self


class CrossNorm(RandomStyleLayer):
    """Lets images exchange channel statistics: makes the random draws for `functional.crossnorm` and calls it.

    x, y: (N, C, *spatial). Gradients flow through content and style. The layer is the identity in evaluation and on
    maps with one position.

    If `add_style` puts several of these layers into a model, exactly `active` of them act in a forward pass with
    probability `p`, and none otherwise, as in the authors' code; see `Choice`.

    Differs from the authors' code: if no box is found in 100 tries, the whole map is used; theirs loops for ever on
    maps with one row or column.

    Args:
        num_features: Not used; accepted so that any layer can be built in place of a norm layer.
        p: Probability that layers act in a forward pass; if the layer is used on its own, that a call acts.
        active: Number of layers of one style in a model that act then; 0: each layer draws independently with
            probability `p`.
        crop: 'neither' takes the statistics of whole maps. 'style' takes the style statistics from a random box,
            'content' restyles only a random box, 'both' does both. A box has a share of the map drawn from U(0, 1), the
            map's proportions and a random centre, and is cut off at the border; it is drawn again until it covers more
            than a tenth of the map. All images share the same box.
        images: Whether the images of a batch exchange statistics.
        channels: Whether channels exchange statistics, by one permutation for all images; with `images=False` they do
            so within each image, which is the paper's 1-instance mode.
        lam: Share of the map that stays as it is.
        eps: Added to the unbiased variances.
        branch_free: See `RandomStyleLayer`. Each layer then draws independently with probability p * active / layers.

    Raises:
        ValueError: `p` or `lam` outside [0, 1], an unknown `crop`, a crop with `branch_free`, `active` below 0, or
            neither `images` nor `channels`; in forward, a crop of a map that does not have two spatial axes.
    """

    choice: Choice | None = None
    index = 0

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.5,
        active: int = 2,
        crop: str = 'neither',
        images: bool = True,
        channels: bool = False,
        lam: float = 0.0,
        eps: float = 1e-5,
        branch_free: bool = False,
    ) -> None:
        super().__init__(p, branch_free)
        if crop not in ('neither', 'style', 'content', 'both'):
            raise ValueError(f"CrossNorm: crop must be 'neither', 'style', 'content' or 'both', got {crop!r}")
        check(self, eps=eps)
        check_range(self, 0, 1, lam=lam)
        check_count(self, 0, active=active)
        check_flag(self, images=images, channels=channels)
        if not (images or channels):
            raise ValueError('CrossNorm: images exchange statistics, or channels, or both; got False for both')
        if branch_free and crop != 'neither':
            raise ValueError(f'CrossNorm: boxes are drawn on the host, so that branch_free has none, got crop={crop!r}')
        self.active, self.crop, self.images, self.channels = active, crop, images, channels
        self.lam, self.eps = lam, eps

    @classmethod
    def configure_group(cls, layers: Sequence[Self]) -> None:
        if layers and layers[0].active:
            choice = Choice(len(layers), layers[0].active)
            for index, layer in enumerate(layers):
                layer.choice, layer.index = choice, index

    def should_apply(self, x: Tensor) -> bool:
        if self.choice is None or not self.training or self.p == 0:
            return super().should_apply(x)
        if self.p == 1 and self.choice.active == self.choice.count:
            return x.shape[2:].numel() > 1
        return self.choice.acts(self.index, self.p) and x.shape[2:].numel() > 1

    def turns(self) -> float:
        return 1.0 if self.choice is None else self.choice.active / self.choice.count

    def act(self, x: Tensor) -> Tensor:
        if self.crop != 'neither' and x.dim() != 4:
            raise ValueError(f'CrossNorm: crop={self.crop!r} takes maps (N, C, H, W), got {tuple(x.shape)}')
        perm = torch.randperm(x.shape[0], device=x.device) if self.images else None
        style_box = _box(*x.shape[2:]) if self.crop in ('style', 'both') else None
        channel_perm = torch.randperm(x.shape[1], device=x.device) if self.channels else None
        content_box = _box(*x.shape[2:]) if self.crop in ('content', 'both') else None
        return crossnorm(x, perm, channel_perm, style_box, content_box, self.lam, self.eps)

    def extra_repr(self) -> str:
        words = [f'p={self.p}', f'active={self.active}', f'crop={self.crop!r}']
        words += [f'{name}={getattr(self, name)}' for name in ('images', 'channels', 'lam')]
        return ', '.join(words)


def _box(height: int, width: int, tries: int = 100) -> Box:
    """A random box that covers more than a tenth of the map; the whole map if none is found."""
    for _ in range(tries):
        share = 1 - float(torch.rand(()))
        box, large = crop_box(height, width, share, [int(torch.randint(size, ())) for size in (height, width)])
        if large:
            return box
    return slice(None), slice(None)


_Gate = tuple[nn.Conv1d, _BatchNorm]


class SelfNorm(StyleLayer):
    """Recalibration of each channel's statistics by small gates that see its mean and deviation.

        y = g * x                            two=False: one gate for mean and deviation
        y = g * (x - m) + f * m              two=True:  the mean has a gate of its own
        g, f = sigmoid(BN(w1 * m + w2 * s)),   s = sqrt(u + 1e-12),  w1, w2 for each channel

    BN uses batch statistics in training and running statistics in evaluation. x, y: (N, C, *spatial). A batch of one
    image, which the authors' BatchNorm1d rejects, uses the running statistics in training too and does not update them.
    Only BN's own mode counts: helpers that freeze batch norms (mmseg's `norm_eval`) freeze these too.

    If the convolutions and BN are plain modules, one kernel computes them from their tensors; if a host has changed
    them, they are called. Batch moments are not synchronised, even if a converter has turned BN into a SyncBatchNorm:
    each process normalises with its own images.

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
        batched = [len(m) == 0 for m in moments]  # dynamo does not support `not` of tuples
        tensors = [t for (fc, bn), m in zip(gates, moments, strict=True) for t in (fc.weight, *affine(bn, x), *m)]
        rule = partial(
            _selfnorm_rule, count=x.shape[2:].numel(), batched=batched, eps=self.eps, bn_eps=[bn.eps for _, bn in gates]
        )
        if not any(batched):
            return centred_affine(x, rule, *tensors)
        y, *moved = centred_affine(x, rule, *tensors)
        learning = [bn for (_, bn), batch in zip(gates, batched, strict=True) if batch]
        for bn, mean, var in zip(learning, moved[::2], moved[1::2], strict=True):
            update_running(bn, mean, var, x.shape[0])
        return y

    def _by_calls(self, x: Tensor, gates: list[_Gate]) -> Tensor:
        """The same result, for modules that must be called."""
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
    """The rule; `tensors` holds fc, weight, bias of each gate, and its running moments unless it is `batched`."""
    std = unbiased_std(var, count, eps)
    values, moments = [], []
    rest = iter(tensors)
    for batch, gate_eps in zip(batched, bn_eps, strict=True):
        fc, weight, bias = islice(rest, 3)
        of_mean, of_std = fc[:, 0].unbind(1)
        z = torch.addcmul(mean * of_mean, std, of_std)
        if batch:
            z, b_mean, b_rstd = torch.native_batch_norm(z, weight, bias, None, None, True, 0.0, gate_eps)
            moments += [b_mean.detach(), b_rstd.detach().pow(-2).sub(gate_eps).clamp(min=0)]
        else:
            b_mean, b_var = islice(rest, 2)
            z = (z - b_mean) * (b_var + gate_eps).rsqrt() * weight + bias
        values.append(z.sigmoid())
    return values[0], values[-1] * mean, *moments
