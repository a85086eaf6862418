"""Batch-Instance Normalization.

Nam, Kim, 'Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks', NeurIPS 2018, arXiv:1805.07925.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ..functional import centred_affine, restyle
from .norms import batch_moments
from .owned import MainFirst, affine, is_read, statistics, update_running


class BatchInstanceNorm2d(MainFirst):
    """Batch-Instance Normalization: a gate for each channel between batch norm and instance norm.

        y = weight * (gate * BN(x) + (1 - gate) * IN(x)) + bias

    BN uses batch moments in training and running moments in evaluation; IN always uses instance moments. Batch
    and instance variances are biased, with the same eps. x, y: (N, C, H, W); the 1d and 3d classes differ only in the
    shape they expect. The gate starts at 1 (batch norm). Train it in its own parameter group, with ten times the
    learning rate and no weight decay, and clamp it to [0, 1] after every step: see `timm_stylenorm.gates`.

    The batch norm is the child `bn`. It decides how its part is normalised: by its mode, by the statistics that it has,
    and over all processes if it is a SyncBatchNorm. A plain `nn.BatchNorm*d` or a frozen batch norm is computed
    together with the instance norm in one pass. Any other module is called, which is slower:
    y = gate * bn(x) + (1 - gate) * (weight * IN(x) + bias).

    Differs from the authors' code: it also takes maps with 3 and 5 dimensions, and it does not update the running
    statistics from a single value for each channel. Keys of the state dict: `gate`, `bn.*`. The order of the
    parameters is weight, bias, gate.

    Args:
        num_features: C.
        eps: Added to the variances.
        momentum: Momentum of the running statistics; None for a plain average.

    Raises:
        ValueError: `num_features` or `eps` not positive; in forward, a map of other dimensions.
    """

    waits_for = 'gates'

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.gate = nn.Parameter(torch.ones(num_features))

    def is_waiting(self) -> bool:
        return self.gate.requires_grad and super().is_waiting()

    def added_parameters(self) -> Iterator[nn.Parameter]:
        yield self.gate

    def restyle(self, x: Tensor) -> Tensor:
        if x.dim() != self.dim:
            raise ValueError(f'{type(self).__name__}: expected {self.dim} dimensions, got shape {tuple(x.shape)}')
        gate = self.gate if self.enabled else torch.ones_like(self.gate)
        bn = self.bn
        if not is_read(bn):
            y = restyle(bn(x), gate.expand(x.shape[0], -1), gate.new_zeros(1).expand(*x.shape[:2]))
            return y + centred_affine(x, partial(_instance_rule, eps=self.eps), *affine(bn, x), gate)
        parameters, moments = (*affine(bn, x), gate), statistics(bn)
        if moments:
            return centred_affine(x, partial(_bin_rule, eps=bn.eps), *parameters, *moments)
        y, mean, var = centred_affine(x, partial(_bin_batch_rule, eps=bn.eps), *parameters)
        update_running(bn, mean, var, x.numel() // x.shape[1])
        return y


class BatchInstanceNorm1d(BatchInstanceNorm2d):
    """`BatchInstanceNorm2d` for (N, C, L)."""

    dim = 3


class BatchInstanceNorm3d(BatchInstanceNorm2d):
    """`BatchInstanceNorm2d` for (N, C, D, H, W)."""

    dim = 5


BatchInstanceNorm2d.forms = {3: BatchInstanceNorm1d, 5: BatchInstanceNorm3d}


def _instance_rule(
    mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    rest = 1 - gate
    return rest * weight * (var + eps).pow(-0.5), rest * bias


def _bin_rule(
    mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, b_mean: Tensor, b_var: Tensor, *, eps: float
) -> tuple[Tensor, Tensor]:
    on_batch = weight * gate
    batch, instance = on_batch * (b_var + eps).pow(-0.5), (weight - on_batch) * (var + eps).pow(-0.5)
    return batch + instance, bias + batch * (mean - b_mean)


def _bin_batch_rule(mean: Tensor, var: Tensor, *parameters: Tensor, eps: float) -> tuple[Tensor, ...]:
    moments = batch_moments(mean, var)
    weight, bias, gate = parameters
    affine = _bin_rule(mean, var, weight, bias, gate, *moments, eps=eps)
    return *affine, *(m.detach() for m in moments)
