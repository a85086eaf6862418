"""Permuted AdaIN: in training, images of a batch swap their channel statistics.

Nuriel, Benaim, Wolf, 'Permuted AdaIN: Reducing the Bias Towards Global Statistics in Image Classification',
CVPR 2021, arXiv:2010.05785.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import permuted_adain
from .arguments import check
from .base import RandomStyleLayer


class PermutedAdaIN(RandomStyleLayer):
    """`functional.permuted_adain` with probability `p` for each call in training, the identity otherwise.

    x, y: (N, C, *spatial). Maps of a single position have no deviation and pass unchanged. Each process draws
    its own permutation: in data parallel training every process mixes its own part of the batch.

    Differs from the authors' code: all draws come from torch's generators, so `torch.manual_seed` makes a run
    reproducible and activation checkpointing repeats the draws; evaluation draws nothing.

    Args:
        num_features: Not used; accepted so that any layer can be built in place of a norm layer.
        p: Probability that a call permutes.
        eps: See `permuted_adain`.
        mode: 'permute' draws a permutation of the batch. 'source_target' is the adversarial stage of FADA
            (the authors' file FADA/core/models/permuteAdaIN.py): the batch is [source; target], image i of the
            first half takes the statistics of image i + N/2, the second half passes unchanged.
        branch_free: See `RandomStyleLayer`.

    Raises:
        ValueError: `p` outside [0, 1] or an unknown mode; in forward, an odd batch in mode 'source_target'.
    """

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.01,
        eps: float = 1e-5,
        mode: str = 'permute',
        branch_free: bool = False,
    ) -> None:
        super().__init__(p, branch_free)
        if mode not in ('permute', 'source_target'):
            raise ValueError(f"PermutedAdaIN: mode must be 'permute' or 'source_target', got {mode!r}")
        check(self, eps=eps)
        self.eps = eps
        self.mode = mode

    def restyle(self, x: Tensor) -> Tensor:
        if self.mode == 'source_target' and self.training and len(x) % 2 and len(x) > 1:
            raise ValueError(
                f"PermutedAdaIN: mode 'source_target' takes [source; target] in equal halves, got {len(x)} images"
            )
        return super().restyle(x)

    def act(self, x: Tensor) -> Tensor:
        return permuted_adain(x, self._draw(x), self.eps)

    def _draw(self, x: Tensor) -> Tensor:
        if self.mode == 'permute':
            return torch.randperm(len(x), device=x.device)
        return torch.arange(len(x) // 2, len(x) // 2 * 2, device=x.device)

    def extra_repr(self) -> str:
        options = ''.join([f', mode={self.mode!r}' * (self.mode != 'permute'), ', branch_free=True' * self.branch_free])
        return f'p={self.p}, eps={self.eps}{options}'
