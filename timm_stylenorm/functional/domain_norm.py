"""Domain Normalization, which is not an affine map of each channel: it divides by a norm over the channels.

On a CPU it processes a few images at a time, so that intermediate results stay in the cache.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import backend
from .affine import instance_moments
from .backend import widen
from .formula import Context, differentiable_grads

NORM_FLOOR = 1e-12


def domain_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """weight * z / max(||z||_2 over the channels, 1e-12) + bias,    z = (x - m) / sqrt(v + eps)

    Args:
        x: (N, C, *spatial).
        weight: (C,).
        bias: (C,).
        eps: Added to the biased instance variance.

    Returns:
        y in the dtype and memory format of `x`.
    """
    runs = {'plain': _plain_domain_norm, 'cpu': _DomainNorm.apply, 'gpu': _OnGpu.apply}
    return runs[backend.route(x)](x, weight, bias, eps)


def _columns(x: Tensor, small: Tensor) -> Tensor:
    """(C,) -> (C, 1, ..., 1), to broadcast against the map `x`, in its dtype."""
    return small.reshape(-1, *(1,) * (x.dim() - 2)).to(x.dtype)


def _plain_domain_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    wide = widen(x)
    mean, var = instance_moments(x)
    z = (wide - backend.spatial(x, mean)) * backend.spatial(x, (var + eps).rsqrt())
    return (_columns(wide, weight) * F.normalize(z, dim=1, eps=NORM_FLOOR) + _columns(wide, bias)).to(x.dtype)


class _Context(Context, Protocol):
    eps: float


class _DomainNorm(torch.autograd.Function):
    """`domain_norm` on a CPU; keeps x, its moments and one norm for each position."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        dense = backend.dense(widen(x))
        mean, var, middle = backend.moments(dense)
        rstd = (var + eps).rsqrt()
        y, norm = torch.empty_like(dense), torch.empty_like(dense[:, :1])
        for part in backend.parts(dense):
            z = _normalised(dense, mean, rstd, middle, part)
            norm[part] = (z * z).sum(1, keepdim=True).sqrt_().clamp_(min=NORM_FLOOR)
            backend.affine(z.div_(norm[part]), weight.expand_as(mean[part]), bias.expand_as(mean[part]), out=y[part])
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias, mean, rstd, middle, norm)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: _Context, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd, middle, norm = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _plain_backward(ctx, x, weight, bias, g)
        dense = backend.dense(widen(x))
        g_x, sums = torch.empty_like(dense), []
        for part in backend.parts(dense):
            z, g_part = _normalised(dense, mean, rstd, middle, part), widen(g[part])
            zero = torch.zeros_like(mean[part])
            sums.append(backend.reductions(g_part, z / norm[part], zero))
            g_z = _through_l2(g_part * _columns(z, weight), z, norm[part])
            dot, total = backend.reductions(g_z, z, zero)
            slope = -rstd[part] / x.shape[2:].numel()
            backend.affine(z, slope * dot, slope * total, out=g_x[part])
            g_x[part].addcmul_(g_z, backend.spatial(x, rstd[part].to(z.dtype)))
        g_weight, g_bias = (torch.cat(s).sum(0).to(weight.dtype) for s in zip(*sums, strict=True))
        return g_x.to(x.dtype), g_weight, g_bias, None


class _OnGpu(torch.autograd.Function):
    """`domain_norm` by the operators of `map_ops`; keeps x, its moments and one norm for each position."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        from . import map_ops

        dense = backend.dense(x)
        centre, var = map_ops.moments(dense)
        rstd = (var + eps).rsqrt()
        z = map_ops.affine(dense, rstd, None, centre)
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True, dtype=var.dtype).clamp_(min=NORM_FLOOR)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias, centre, rstd, norm)
        return map_ops.affine(
            z.div_(norm), *(t.to(var.dtype).expand_as(var).contiguous() for t in (weight, bias)), None
        )

    @staticmethod
    def backward(ctx: _Context, g: Tensor) -> tuple[Tensor | None, ...]:
        from . import map_ops
        from .cuda import like

        x, weight, bias, centre, rstd, norm = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _plain_backward(ctx, x, weight, bias, g)
        dense = backend.dense(x)
        g, unit = like(g, dense), map_ops.affine(dense, rstd, None, centre).div_(norm)
        g_bias, g_weight = (t.sum(0).to(weight.dtype) for t in map_ops.sums(g, unit, None))
        g_z = map_ops.affine(g, weight.to(rstd.dtype).expand_as(rstd).contiguous(), None, None)
        along = (g_z * unit).sum(1, keepdim=True, dtype=rstd.dtype).masked_fill_(norm <= NORM_FLOOR, 0.0)
        g_z.addcmul_(unit, along, value=-1).div_(norm)
        total, dot = map_ops.sums(g_z, dense, centre)
        share = rstd / x.shape[2:].numel()
        g_x = map_ops.gradient(g_z, dense, rstd, share * rstd.square() * dot, share * total, centre)
        return g_x, g_weight, g_bias, None


def _plain_backward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of `domain_norm` for a double backward."""
    outputs = [_plain_domain_norm(x, weight, bias, ctx.eps)]
    return *differentiable_grads(outputs, (x, weight, bias), ctx.needs_input_grad[:3], [g]), None


def _normalised(x: Tensor, mean: Tensor, rstd: Tensor, middle: Tensor | None, part: slice) -> Tensor:
    """z of the images in `part`."""
    return backend.affine(x[part], rstd[part], -mean[part] * rstd[part], None if middle is None else middle[part])


def _through_l2(g: Tensor, z: Tensor, norm: Tensor) -> Tensor:
    """The gradient of z from the gradient g of z / norm; overwrites g. Below its floor the norm is constant."""
    along = (g * z).sum(1, keepdim=True).div_(norm * norm).masked_fill_(norm <= NORM_FLOOR, 0.0)
    return g.addcmul_(z, along, value=-1).div_(norm)
