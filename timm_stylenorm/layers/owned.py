"""Layers that replace a batch norm and own one, so that code that looks for batch norms in a model finds it.

Freezing, re-estimation of statistics, test-time adaptation and SyncBatchNorm converters look for `nn.BatchNorm2d`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..host import BatchNormAct2d, FrozenBatchNormAct2d, convert_sync_batchnorm
from .arguments import check, check_range
from .base import is_plain
from .norms import BATCH_NORMS, NormLayer, is_frozen

if TYPE_CHECKING:
    from typing_extensions import Self


class OwnsBatchNorm(NormLayer):
    """A norm layer that owns the batch norm `bn` and uses its weights, statistics and mode.

    Hosts may turn `bn` into a SyncBatchNorm, a frozen batch norm or one without statistics. Its tensors are saved as
    `bn.*`; the keys of a plain batch norm can be loaded too, alone or beside the layer's own keys.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Momentum of the running statistics; None for a plain average.
    """

    bn: _BatchNorm

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        check(self, num_features=num_features, eps=eps)
        check_range(self, 0, 1, **({} if momentum is None else {'momentum': momentum}))
        self.num_features = num_features
        self.bn = BATCH_NORMS[self.dim](num_features, eps, momentum)

    @classmethod
    def from_norm(cls, norm: _BatchNorm, **kwargs: object) -> Self:
        layer = super().from_norm(norm, **kwargs)
        if isinstance(norm, nn.SyncBatchNorm):
            for name in ('bn', 'aux_bn'):
                if hasattr(layer, name):
                    plain = layer.get_submodule(name)
                    synced = nn.SyncBatchNorm.convert_sync_batchnorm(plain, norm.process_group)
                    setattr(layer, name, synced.train(plain.training))  # torch 2.1 leaves it in training mode
        return layer

    def from_plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f'bn.{k}': v for k, v in state.items() if getattr(self.bn, k, v) is not None}

    def to_norm(self) -> nn.Module:
        """The batch norm, of the class that was replaced; everything else that the layer has learnt is lost."""
        bn = self.bn
        if self.act is None:
            return bn
        norm = FrozenBatchNormAct2d(self.num_features, self.eps)  # it replaced timm's fused layer
        if not is_frozen(bn):
            norm = BatchNormAct2d(self.num_features, self.eps, self.momentum)
            norm.track_running_stats = bn.track_running_stats
        norm._parameters.update(bn._parameters)
        norm._buffers.update(bn._buffers)
        norm.add_module('drop', self.drop)
        norm.add_module('act', self.act)
        if isinstance(bn, nn.SyncBatchNorm):
            norm = convert_sync_batchnorm(norm, bn.process_group)
        return norm.train(bn.training)

    @property
    def eps(self) -> float:
        """The eps of `bn`."""
        return innermost(self.bn).eps

    @property
    def momentum(self) -> float | None:
        """The momentum of `bn`; None if it has none."""
        return getattr(innermost(self.bn), 'momentum', None)

    @property
    def weight(self) -> Tensor | None:
        """The weight of `bn`, (C,), or None if it has none; the next properties return its other tensors likewise."""
        return getattr(innermost(self.bn), 'weight', None)

    @property
    def bias(self) -> Tensor | None:
        return getattr(innermost(self.bn), 'bias', None)

    @property
    def running_mean(self) -> Tensor | None:
        return getattr(innermost(self.bn), 'running_mean', None)

    @property
    def running_var(self) -> Tensor | None:
        return getattr(innermost(self.bn), 'running_var', None)

    @property
    def num_batches_tracked(self) -> Tensor | None:
        return getattr(innermost(self.bn), 'num_batches_tracked', None)

    def extra_repr(self) -> str:
        return f'{self.num_features}'


class MainFirst(OwnsBatchNorm):
    """Keeps its own parameters after those of `bn`, as they have always been: optimizers save states by position."""

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = '', remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        first, *rest = [*super().named_modules(memo, prefix, remove_duplicate)] or [None]
        yield from rest
        if first is not None:
            yield first


def own_names(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a plain or a styled model, with the names that this model gives to its batch norms."""
    result = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, OwnsBatchNorm):
            module.take_plain(result, f'{name}.' if name else '')
    rename_main(model.state_dict().keys(), result)
    return result


def rename_main(own: Collection[str], state: MutableMapping[str, Tensor], prefix: str = '') -> None:
    """For a model with plain batch norms, whose keys are `own`: rename the main half of dual batch norms in a state
    dict to the plain names, in place. All keys of the state dict may begin with `prefix`."""
    for key in [k for k in state if '.aux_bn.' in k]:
        path, _, last = key.removeprefix(prefix).partition('.aux_bn.')
        old, new = f'{path}.bn.{last}', f'{path}.{last}'
        if new in own and old not in own and prefix + old in state:
            state[prefix + new] = state.pop(prefix + old)


def innermost(bn: nn.Module) -> _BatchNorm:
    """The batch norm itself, without its wrappers."""
    found = bn if hasattr(bn, 'eps') else next((m for m in bn.modules() if hasattr(m, 'eps')), bn)
    return cast('_BatchNorm', found)


def is_read(bn: nn.Module) -> bool:
    """Whether a batch norm can be computed from its tensors: an unmodified `nn.BatchNorm*d` or frozen batch norm."""
    frozen = is_frozen(bn) and type(bn) is not FrozenBatchNormAct2d
    return is_plain(bn, *BATCH_NORMS.values(), *([type(bn)] if frozen else []))


def affine(bn: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a batch norm; if it has none, ones and zeros for the channels of `like` (N, C, ...)."""
    bn = innermost(bn)
    weight, bias = (getattr(bn, name, None) for name in ('weight', 'bias'))
    dtype = torch.promote_types(like.dtype, torch.float32)
    c = like.shape[1]
    weight = like.new_ones(c, dtype=dtype) if weight is None else weight
    return weight, like.new_zeros(c, dtype=dtype) if bias is None else bias


def statistics(bn: _BatchNorm) -> tuple[Tensor, ...]:
    """The running moments with which a batch norm normalises now; empty if it uses batch moments."""
    if (bn.training and not is_frozen(bn)) or bn.running_mean is None or bn.running_var is None:
        return ()
    return bn.running_mean, bn.running_var


def update_running(bn: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Update running statistics from biased batch moments (C,) over `count` values; momentum None: a plain average.

    Nothing is updated if the batch norm is in evaluation mode, is frozen, does not track its statistics or has none,
    or if there is a single value: it has no variance, and running variances would go to 0.
    """
    tracked = bn.training and not is_frozen(bn) and bn.track_running_stats
    if count == 1 or not tracked or bn.running_mean is None or bn.running_var is None:
        return
    with torch.no_grad():
        counter = bn.num_batches_tracked
        if counter is not None:
            counter.add_(1)
        plain = 0.0 if counter is None or bn.momentum is not None else 1 / counter.float()
        factor = bn.momentum if bn.momentum is not None else plain
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), factor)
        unbiased = (var * (count / (count - 1))).to(bn.running_var.dtype)
        bn.running_var.lerp_(unbiased, factor)
