"""Domain Normalization: instance norm over the positions and L2 norm over the channels.

Zhang, Qi, Yang, Prisacariu, Wah, Torr, 'Domain-invariant Stereo Matching Networks', ECCV 2020, arXiv:1911.13287.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import instance_norm_rule, restyle, style_affine, widen
from .base import check
from .norms import NormLayer

_FLOOR = 1e-12  # of the L2 norm


class DomainNorm2d(NormLayer):
    """y = weight * z / max(||z||_2 over the channels, 1e-12) + bias,    z = (x - m) / sqrt(v + eps)

    x, y: (N, C, H, W); m, v: instance mean and biased variance, in training and evaluation alike, as the class in the
    authors' file models/DSMNet.py. `l2=False` leaves out the L2 norm. `order='l2_first'` is the class of the same name
    in models/DSMNet2x2.py: the L2 norm of x itself first, then affine instance norm.

    A channel of y has a magnitude near 1 / sqrt(C), so that a network built for batch norm has to be trained anew.

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
        self.num_features, self.l2, self.order, self.eps = num_features, l2, order, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def restyle(self, x: Tensor) -> Tensor:
        if self.l2 and self.order == 'in_first':
            if torch.compiler.is_compiling() or torch.jit.is_tracing():
                return _plain(x, self.weight, self.bias, self.eps)
            return _InThenL2.apply(x, self.weight, self.bias, self.eps)
        if self.l2:
            x = F.normalize(widen(x), dim=1, eps=_FLOOR).to(x.dtype)
        return style_affine(x, partial(instance_norm_rule, eps=self.eps), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f'{self.num_features}, l2={self.l2}, order={self.order!r}, eps={self.eps}'


def _in_rule(mean: Tensor, var: Tensor, *, eps: float) -> tuple[Tensor, ...]:
    scale = (var + eps).rsqrt()
    return scale, -mean * scale, scale.detach(), mean.detach()


def _columns(x: Tensor, small: Tensor) -> Tensor:
    """(C,) against (N, C, *spatial)."""
    return small.reshape(-1, *(1,) * (x.dim() - 2))


def _plain(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    z, *_ = style_affine(x, partial(_in_rule, eps=eps))
    return (_columns(x, weight) * F.normalize(widen(z), dim=1, eps=_FLOOR) + _columns(x, bias)).to(x.dtype)


class _InThenL2(torch.autograd.Function):
    """The default form; keeps x, its moments and one norm for each position."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        z, rstd, mean = style_affine(x, partial(_in_rule, eps=eps))
        z = widen(z)
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_(min=_FLOOR)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias, rstd, mean, norm)
        return z.div_(norm).mul_(_columns(x, weight)).add_(_columns(x, bias)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, rstd, mean, norm = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = _plain(x, weight, bias, ctx.eps)
            return *torch.autograd.grad(y, (x, weight, bias), g, create_graph=True), None
        z = widen(restyle(x, rstd, -mean * rstd)).div_(norm)
        g = widen(g)
        axes = (0, *range(2, x.dim()))
        product = g * z
        g_weight, g_bias = product.sum(axes), g.sum(axes)
        g = g * _columns(x, weight)
        along = torch.where(norm > _FLOOR, (g * z).sum(1, keepdim=True), 0.0)  # below the floor the norm is constant
        g.addcmul_(z, along, value=-1).div_(norm)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            normalised, *_ = style_affine(leaf, partial(_in_rule, eps=ctx.eps))
        return torch.autograd.grad(normalised, leaf, g.to(x.dtype))[0], g_weight, g_bias, None
