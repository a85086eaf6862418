"""Norm layers that replace batch norm: Batch-Instance Normalization and IBN.

Nam, Kim, 'Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks', NeurIPS 2018, arXiv:1805.07925.
Pan, Luo, Shi, Tang, 'Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net', ECCV 2018,
arXiv:1807.09441.

They are plain modules, since every SyncBatchNorm converter turns subclasses of batch norm into plain SyncBatchNorm.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import instance_norm_rule, style_affine
from .base import StyleLayer


def batch_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Moments over images and positions, (C,), from the instance moments, (N, C); biased."""
    batch_mean = mean.mean(0)
    return batch_mean, var.mean(0) + (mean - batch_mean).square().mean(0)


def update_running(bn: Any, mean: Tensor, var: Tensor, count: int) -> None:
    """Batch norm's update from biased batch moments (C,) over `count` values; momentum None is the plain average."""
    with torch.no_grad():
        bn.num_batches_tracked.add_(1)
        factor = bn.momentum if bn.momentum is not None else 1 / bn.num_batches_tracked.float()
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), factor)
        unbiased = (var * (count / max(count - 1, 1))).to(bn.running_var.dtype)
        bn.running_var.lerp_(unbiased, factor)


class BatchInstanceNorm2d(StyleLayer):
    """Batch-Instance Normalization: a gate for each channel between batch norm and instance norm.

        y = weight * (gate * BN(x) + (1 - gate) * IN(x)) + bias

    BN uses batch moments in training and running ones in evaluation, IN instance moments always; both biased, with the
    same eps. x, y: (N, C, H, W); the 1d and 3d classes differ in nothing but the shape they expect. The gate starts at
    1 (batch norm). Train it in a parameter group of its own, ten times the learning rate, no weight decay, clamped to
    [0, 1] after every step: `timm_stylenorm.gates`.

    Differs from the authors' code in counting `num_batches_tracked`, and in working for other than 4 dimensions.

    Args:
        num_features: C.
        eps: Added to the variances.
        momentum: Of the running statistics; None for a plain average.
    """

    dim = 4
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.gate = nn.Parameter(torch.ones(num_features))
        self.register_buffer('running_mean', torch.zeros(num_features))
        self.register_buffer('running_var', torch.ones(num_features))
        self.register_buffer('num_batches_tracked', torch.tensor(0))

    def restyle(self, x: Tensor) -> Tensor:
        if x.dim() != self.dim:
            raise ValueError(f'{type(self).__name__}: expected {self.dim} dimensions, got shape {tuple(x.shape)}')
        parameters = (self.weight, self.bias, self.gate)
        if not self.training:
            rule = partial(_bin_rule, eps=self.eps)
            return style_affine(x, rule, *parameters, self.running_mean, self.running_var)
        y, mean, var = style_affine(x, partial(_bin_batch_rule, eps=self.eps), *parameters)
        update_running(self, mean, var, x.numel() // x.shape[1])
        return y

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


class IBN(StyleLayer):
    """IBN-a: instance norm with affine parameters on the first channels, batch norm on the rest.

    x, y: (N, C, *spatial). Keys are the authors': `IN.weight`, `IN.bias`, `BN.*`. Differs from the authors' code in
    taking any ratio and odd C: the first int(C * ratio) channels are instance-normalised.

    Args:
        num_features: C.
        ratio: Share of the channels with instance norm, within (0, 1).
        eps: Added to the variances.
        momentum: Of BN's running statistics.

    Raises:
        ValueError: A ratio that leaves one of the two without a channel.
    """

    def __init__(self, num_features: int, ratio: float = 0.5, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        half = int(num_features * ratio)
        if not 0 < half < num_features:
            raise ValueError(
                f'IBN: ratio {ratio} of {num_features} channels leaves {half} for instance norm and '
                f'{num_features - half} for batch norm; both need one'
            )
        self.ratio, self.eps = ratio, eps
        self.IN = nn.InstanceNorm2d(half, eps=eps, affine=True)
        self.BN: nn.Module = nn.BatchNorm2d(num_features - half, eps=eps, momentum=momentum)

    def restyle(self, x: Tensor) -> Tensor:
        half: int = self.IN.num_features
        bn: Any = self.BN
        if type(bn) is not nn.BatchNorm2d:  # SyncBatchNorm sees the batch of all processes
            first, rest = x.split([half, x.shape[1] - half], 1)
            instance = partial(instance_norm_rule, eps=self.eps)
            return torch.cat([style_affine(first, instance, *self.IN.parameters()), bn(rest)], 1)
        parameters: list[Any] = [*self.IN.parameters(), *bn.parameters()]
        rule = partial(_ibn_rule, eps=self.eps)
        if not bn.training:
            return style_affine(x, rule, *parameters, *(bn.running_mean, bn.running_var))  # type: ignore[arg-type]
        y, mean, var = style_affine(x, partial(_ibn_batch_rule, eps=self.eps), *parameters)
        update_running(bn, mean, var, x.numel() // x.shape[1])
        return y

    def extra_repr(self) -> str:
        return f'ratio={self.ratio}'


def _ibn_rule(
    mean: Tensor, var: Tensor, in_w: Tensor, in_b: Tensor, bn_w: Tensor, bn_b: Tensor, b_mean: Tensor, b_var: Tensor,
    *, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    half = len(in_w)
    mean = torch.cat([mean[:, :half], b_mean.expand(len(mean), -1)], 1)
    var = torch.cat([var[:, :half], b_var.expand(len(var), -1)], 1)
    return instance_norm_rule(mean, var, torch.cat([in_w, bn_w]), torch.cat([in_b, bn_b]), eps=eps)


def _ibn_batch_rule(mean: Tensor, var: Tensor, *parameters: Tensor, eps: float) -> tuple[Tensor, ...]:
    half = len(parameters[0])
    moments = batch_moments(mean[:, half:], var[:, half:])
    affine = _ibn_rule(mean, var, *parameters, *moments, eps=eps)  # type: ignore[misc, arg-type, call-arg]
    return *affine, *(m.detach() for m in moments)
