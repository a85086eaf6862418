"""IBN: instance norm for a part of the channels, batch norm for the rest.

Pan, Luo, Shi, Tang, 'Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net', ECCV 2018,
arXiv:1807.09441.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..functional import instance_norm_rule, style_affine
from .base import check
from .norms import NormLayer, batch_moments, update_running


class IBN(NormLayer):
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
        check(self, num_features=num_features, eps=eps)
        half = int(num_features * ratio)
        if not 0 < half < num_features:
            raise ValueError(
                f'IBN: ratio {ratio} of {num_features} channels leaves {half} for instance norm and '
                f'{num_features - half} for batch norm; both need one'
            )
        self.ratio, self.eps = ratio, eps
        self.IN = nn.InstanceNorm2d(half, eps=eps, affine=True)
        self.BN: nn.Module = nn.BatchNorm2d(num_features - half, eps=eps, momentum=momentum)

    def from_plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        half: int = self.IN.num_features
        parts = {f'IN.{k}': state[k][:half] for k in ('weight', 'bias') if k in state}
        return parts | {f'BN.{k}': v[half:] if v.dim() else v for k, v in state.items()}

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
