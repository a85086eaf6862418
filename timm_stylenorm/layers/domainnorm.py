"""Domain Normalization: instance norm over the positions and L2 norm over the channels.

Zhang, Qi, Yang, Prisacariu, Wah, Torr, 'Domain-invariant Stereo Matching Networks', ECCV 2020, arXiv:1911.13287.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import NORM_FLOOR, domain_norm, instance_norm
from ..functional.backend import widen
from .arguments import check, check_flag
from .norms import NormLayer


class DomainNorm2d(NormLayer):
    """y = weight * z / max(||z||_2 over the channels, 1e-12) + bias,    z = (x - m) / sqrt(v + eps)

    x, y: (N, C, *spatial); m, v: instance mean and biased variance, in training and evaluation alike, as in the class
    of the authors' file models/DSMNet.py. `l2=False` omits the L2 norm. `order='l2_first'` is the class of the same
    name in models/DSMNet2x2.py: it first divides x itself by its L2 norm, then applies affine instance norm.

    A channel of y has a magnitude near 1 / sqrt(C), so a network that was built for batch norm has to be retrained.

    Args:
        num_features: C.
        l2: Whether to divide by the L2 norm.
        order: 'in_first' or 'l2_first'.
        eps: Added to the variance.

    Raises:
        ValueError: An unknown order; `num_features` or `eps` not positive.
    """

    def __init__(self, num_features: int, l2: bool = True, order: str = 'in_first', eps: float = 1e-5) -> None:
        super().__init__()
        if order not in ('in_first', 'l2_first'):
            raise ValueError(f"DomainNorm2d: order must be 'in_first' or 'l2_first', got {order!r}")
        check(self, num_features=num_features, eps=eps)
        check_flag(self, l2=l2)
        self.num_features, self.l2, self.order, self.eps = num_features, l2, order, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def restyle(self, x: Tensor) -> Tensor:
        if self.l2 and self.order == 'in_first':
            return domain_norm(x, self.weight, self.bias, self.eps)
        if self.l2:
            x = F.normalize(widen(x), dim=1, eps=NORM_FLOOR).to(x.dtype)
        return instance_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f'{self.num_features}, l2={self.l2}, order={self.order!r}, eps={self.eps}'
