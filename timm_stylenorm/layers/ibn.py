"""IBN: instance norm for a part of the channels, batch norm for the rest.

Pan, Luo, Shi, Tang, 'Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net', ECCV 2018,
arXiv:1807.09441.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..functional import centred_affine, instance_norm
from ..functional.formula import Rule
from ..functional.styles import instance_norm_rule
from .arguments import check, check_flag, check_range
from .base import is_plain
from .norms import BATCH_NORMS, NormLayer, batch_moments
from .owned import affine, is_read, statistics, update_running

if TYPE_CHECKING:
    from typing_extensions import Self

_INSTANCE_NORMS: dict[int, type[_InstanceNorm]] = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


class IBN(NormLayer):
    """IBN-a: affine instance norm on the first channels, batch norm on the rest, or the other way round.

    x, y: (N, C, H, W); the 1d and 3d classes differ only in the classes of `IN` and `BN`. Keys of the state dict are
    the authors': `IN.weight`, `IN.bias`, `BN.*`. Differs from the authors' code: it accepts any ratio and odd C; the
    first int(C * ratio) channels are instance-normalised. With `instance_first=False`, as in the authors' densenets,
    the first int(C * (1 - ratio)) are batch-normalised, and the rest instance-normalised.

    The modes and the classes of `IN` and `BN`, which hosts may change, decide how each part is normalised. Plain
    `nn.InstanceNorm*d` and `nn.BatchNorm*d` (or a frozen batch norm) are computed in one pass; any others are called.
    If the layer replaces a SyncBatchNorm, `BN` is one too, in the same process group. A single value for each channel,
    which torch's batch norm rejects in training, does not update the running statistics.

    Args:
        num_features: C.
        ratio: Share of the channels with instance norm, within (0, 1).
        eps: Added to the variances.
        momentum: Momentum of BN's running statistics.
        instance_first: Whether instance norm comes first.

    Raises:
        ValueError: A ratio that leaves one of the two without a channel; `num_features` or `eps` not positive.
    """

    def __init__(
        self,
        num_features: int,
        ratio: float = 0.5,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        instance_first: bool = True,
    ) -> None:
        super().__init__()
        check(self, num_features=num_features, eps=eps)
        check_range(self, 0, 1, ratio=ratio, **({} if momentum is None else {'momentum': momentum}))
        check_flag(self, instance_first=instance_first)
        half = int(num_features * ratio) if instance_first else num_features - int(num_features * (1 - ratio))
        if not 0 < half < num_features:
            raise ValueError(
                f'IBN: ratio {ratio} of {num_features} channels leaves {half} for instance norm and '
                f'{num_features - half} for batch norm; both need one'
            )
        self.num_features, self.ratio, self.eps, self.instance_first = num_features, ratio, eps, instance_first
        self.instance_channels = half
        self.IN = _INSTANCE_NORMS[self.dim](half, eps=eps, affine=True)
        self.BN: _BatchNorm = BATCH_NORMS[self.dim](num_features - half, eps=eps, momentum=momentum)

    @classmethod
    def from_norm(cls, norm: _BatchNorm, **kwargs: object) -> Self:
        layer = super().from_norm(norm, **kwargs)
        if isinstance(norm, nn.SyncBatchNorm):
            synced = nn.SyncBatchNorm.convert_sync_batchnorm(layer.BN, norm.process_group)
            layer.BN = synced.train(layer.BN.training)  # torch 2.1 leaves it in training mode
        return layer

    def added_parameters(self) -> Iterator[nn.Parameter]:
        yield from self.IN.parameters()

    def from_plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        for key, value in state.items():
            instance, batch = self._parts(value, 0) if value.dim() else (None, value)
            parts[f'BN.{key}'] = batch
            if instance is not None and key in ('weight', 'bias'):
                parts[f'IN.{key}'] = instance
        return parts

    def restyle(self, x: Tensor) -> Tensor:
        bn = self.BN
        plain = is_plain(self.IN, *_INSTANCE_NORMS.values())
        if not (plain and is_read(bn)):
            instance, batch = self._parts(x, 1)
            instance = instance_norm(instance, *affine(self.IN, instance), self.eps) if plain else self.IN(instance)
            return _joined(instance, bn(batch), self.instance_first, 1)
        parameters = (*affine(self.IN, x[:, : self.instance_channels]), *affine(bn, x[:, self.instance_channels :]))
        moments = statistics(bn)
        rule: Rule = _ibn_rule if moments else _ibn_batch_rule
        rule = partial(rule, eps=self.eps, instance_first=self.instance_first)
        if moments:
            return centred_affine(x, rule, *parameters, *moments)
        y, mean, var = centred_affine(x, rule, *parameters)
        update_running(bn, mean, var, x.numel() // x.shape[1])
        return y

    def _parts(self, x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return _split(x, self.instance_channels, self.instance_first, dim)

    def extra_repr(self) -> str:
        return f'ratio={self.ratio}' + ('' if self.instance_first else ', instance_first=False')


class IBN1d(IBN):
    """`IBN` for (N, C, L)."""

    dim = 3


class IBN3d(IBN):
    """`IBN` for (N, C, D, H, W)."""

    dim = 5


IBN.forms = {3: IBN1d, 5: IBN3d}


def _split(x: Tensor, half: int, instance_first: bool, dim: int) -> tuple[Tensor, Tensor]:
    """The `half` channels with instance norm, and the channels with batch norm."""
    rest = x.shape[dim] - half
    first, second = x.split([half, rest] if instance_first else [rest, half], dim)
    return (first, second) if instance_first else (second, first)


def _joined(instance: Tensor, batch: Tensor, instance_first: bool, dim: int) -> Tensor:
    return torch.cat([instance, batch] if instance_first else [batch, instance], dim)


def _ibn_rule(
    mean: Tensor, var: Tensor, in_w: Tensor, in_b: Tensor, bn_w: Tensor, bn_b: Tensor, b_mean: Tensor, b_var: Tensor,
    *, eps: float, instance_first: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    half, n = len(in_w), mean.shape[0]  # not len: an exported graph would hold it as a constant
    centre = _joined(_split(mean, half, instance_first, 1)[0], b_mean.expand(n, -1), instance_first, 1)
    var = _joined(_split(var, half, instance_first, 1)[0], b_var.expand(n, -1), instance_first, 1)
    affine = _joined(in_w, bn_w, instance_first, 0), _joined(in_b, bn_b, instance_first, 0)
    scale, level = instance_norm_rule(mean, var, *affine, eps=eps)
    return scale, level + (mean - centre) * scale


def _ibn_batch_rule(
    mean: Tensor, var: Tensor, in_w: Tensor, in_b: Tensor, bn_w: Tensor, bn_b: Tensor,
    *, eps: float, instance_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    moments = batch_moments(*(_split(m, len(in_w), instance_first, 1)[1] for m in (mean, var)))
    affine = _ibn_rule(mean, var, in_w, in_b, bn_w, bn_b, *moments, eps=eps, instance_first=instance_first)
    return *affine, *(m.detach() for m in moments)
