"""Uncertainty of feature statistics: in training, channel statistics are drawn around their own values.

Li, Dai, Ge, Liu, Shan, Duan, 'Uncertainty Modeling for Out-of-Distribution Generalization', ICLR 2022,
arXiv:2202.03958.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import uncertain_style
from .arguments import check, check_range
from .base import RandomStyleLayer


class DSU(RandomStyleLayer):
    """`functional.uncertain_style` with probability `p` for each call in training, the identity otherwise.

    x, y: (N, C, *spatial). Differs from the authors' code, which returns NaN for a batch of one.

    Args:
        num_features: Not used; accepted so that any layer can be built in place of a norm layer.
        p: Probability that a call draws.
        eps: Added to the variances over the positions and over the batch.
        factor: Multiplies the draws.
        branch_free: See `RandomStyleLayer`.

    Raises:
        ValueError: `p` outside [0, 1].
    """

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.5,
        eps: float = 1e-6,
        factor: float = 1.0,
        branch_free: bool = False,
    ) -> None:
        super().__init__(p, branch_free)
        check(self, eps=eps)
        check_range(self, 0, factor=factor)
        self.eps, self.factor = eps, factor

    def act(self, x: Tensor) -> Tensor:
        noise = torch.randn(2, *x.shape[:2], device=x.device)
        noise_mean, noise_std = noise if self.factor == 1 else self.factor * noise
        return uncertain_style(x, noise_mean, noise_std, self.eps)

    def extra_repr(self) -> str:
        return f'p={self.p}, eps={self.eps}, factor={self.factor}'
