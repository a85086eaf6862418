"""Batch-Instance Normalization.

Nam, Kim, 'Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks', NeurIPS 2018, arXiv:1805.07925.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import style_affine
from .base import check
from .norms import NormLayer, batch_moments, to_batch_norm, update_running


class BatchInstanceNorm2d(NormLayer):
    """Batch-Instance Normalization: a gate for each channel between batch norm and instance norm.

        y = weight * (gate * BN(x) + (1 - gate) * IN(x)) + bias

    BN uses batch moments in training and running ones in evaluation, IN instance moments always; both biased, with the
    same eps. x, y: (N, C, H, W); the 1d and 3d classes differ in nothing but the shape they expect. The gate starts at
    1 (batch norm). Train it in a parameter group of its own, ten times the learning rate, no weight decay, clamped to
    [0, 1] after every step: `timm_stylenorm.gates`.

    Batch moments are never synchronised: each process normalises by its own images, and `from_norm` warns where it
    replaces a SyncBatchNorm. Differs from the authors' code in counting `num_batches_tracked`, and in working for other
    than 4 dimensions, and in no update of the running statistics from a single value for each channel.

    Args:
        num_features: C.
        eps: Added to the variances.
        momentum: Of the running statistics; None for a plain average.

    Raises:
        ValueError: `num_features` or `eps` not positive; in forward, a map of other dimensions.
    """

    waits_for = 'gates'
    dim = 4
    synced: bool = False  # whether it replaced a SyncBatchNorm, of this group
    process_group: Any = None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        check(self, num_features=num_features, eps=eps)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.gate = nn.Parameter(torch.ones(num_features))
        self.register_buffer('running_mean', torch.zeros(num_features))
        self.register_buffer('running_var', torch.ones(num_features))
        self.register_buffer('num_batches_tracked', torch.tensor(0))

    def is_waiting(self) -> bool:
        return self.gate.requires_grad and super().is_waiting()

    @classmethod
    def from_norm(cls, norm: Any, **kwargs: Any) -> NormLayer:
        layer: Any = super().from_norm(norm, **kwargs)
        if isinstance(norm, nn.SyncBatchNorm):
            layer.synced, layer.process_group = True, norm.process_group
            warnings.warn(
                f'{cls.__name__} replaces SyncBatchNorm and does not synchronise: each process normalises by its own '
                'images',
                stacklevel=2,
            )
        return layer  # type: ignore[no-any-return]

    def restyle(self, x: Tensor) -> Tensor:
        if x.dim() != self.dim:
            raise ValueError(f'{type(self).__name__}: expected {self.dim} dimensions, got shape {tuple(x.shape)}')
        gate = self.gate if self.enabled else torch.ones_like(self.gate)
        parameters = (self.weight, self.bias, gate)
        if not self.training:
            rule = partial(_bin_rule, eps=self.eps)
            return style_affine(x, rule, *parameters, self.running_mean, self.running_var)
        y, mean, var = style_affine(x, partial(_bin_batch_rule, eps=self.eps), *parameters)
        update_running(self, mean, var, x.numel() // x.shape[1])
        return y

    def to_norm(self) -> nn.Module:
        """Batch norm of the replaced kind with the weights and statistics; what the gates had learnt is lost."""
        kind = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[self.dim]
        return to_batch_norm(self, kind, self.synced, self.process_group)

    def extra_repr(self) -> str:
        return f'{self.num_features}, eps={self.eps}, momentum={self.momentum}'


class BatchInstanceNorm1d(BatchInstanceNorm2d):
    """`BatchInstanceNorm2d` for (N, C, L)."""

    dim = 3


class BatchInstanceNorm3d(BatchInstanceNorm2d):
    """`BatchInstanceNorm2d` for (N, C, D, H, W)."""

    dim = 5


def _bin_rule(
    mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, b_mean: Tensor, b_var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    batch = weight * gate * (b_var + eps).rsqrt()
    instance = weight * (1 - gate) * (var + eps).rsqrt()
    return batch + instance, bias - batch * b_mean - instance * mean


def _bin_batch_rule(mean: Tensor, var: Tensor, *parameters: Tensor, eps: float) -> tuple[Tensor, ...]:
    moments = batch_moments(mean, var)
    affine = _bin_rule(mean, var, *parameters, *moments, eps=eps)  # type: ignore[misc, arg-type, call-arg]
    return *affine, *(m.detach() for m in moments)
