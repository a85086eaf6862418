"""EFDMix, which is not an affine map of each channel: it exchanges sorted values."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend
from .backend import widen
from .formula import Context


def efdmix(x: Tensor, perm: Tensor, lmda: Tensor) -> Tensor:
    """Each value moves towards the value of the same rank in the same channel of another image.

        y_i = x_i + (1 - l_i) (t_i - sg(x_i)),    t_i = the sorted values of image perm[i], put at the ranks of image i

    The gradient reaches x_i with weight 1 and, through t, the partner with weight 1 - l. Zhang et al., CVPR 2022,
    arXiv:2203.07740, Eq. (8). One sort is most of the cost; only its order is kept for the backward pass. Equal
    values are ranked in any order. sg stops the gradient.

    Args:
        x: (N, C, *spatial).
        perm: (N,) integers below N.
        lmda: (N,), the share l of an image's own distribution.
    """
    if backend.route(x) == 'cpu':
        return _EFDMix.apply(x, perm, (1 - lmda).to(widen(x).dtype))
    flat = x.flatten(2)
    index = flat.detach().argsort(-1)
    values = flat.gather(-1, index)
    target = torch.empty_like(values).scatter(-1, index, values[perm])
    rest = (1 - lmda).to(x.dtype)[:, None, None]
    return (flat + rest * (target - flat.detach())).reshape(x.shape)


class _EFDMix(torch.autograd.Function):
    """`efdmix` on a CPU; keeps the order of the values, as integers of 32 bits."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, perm: Tensor, rest: Tensor) -> Tensor:
        dense = backend.dense(widen(x))
        y, values = torch.empty_like(dense), dense.new_empty(dense.flatten(2).shape)
        order = torch.empty_like(values, dtype=torch.int32)
        for image, image_values, image_order in zip(dense, values, order, strict=True):
            rows = _rows(image)
            index = torch.from_numpy(rows.numpy().argsort(-1))  # several times as fast as torch's sort on a CPU
            image_order.copy_(index)
            torch.gather(rows, -1, index, out=image_values)
        for k, j in enumerate(perm.tolist()):
            target = torch.empty_like(values[j]).scatter_(-1, order[k].long(), values[j])
            _put(torch.lerp(_rows(dense[k]), target, rest[k]), y[k])
        ctx.save_for_backward(order, perm, rest)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Context, g: Tensor) -> tuple[Tensor | None, ...]:
        order, perm, rest = ctx.saved_tensors
        g_values = torch.zeros_like(order, dtype=rest.dtype)
        for k, j in enumerate(perm.tolist()):
            g_values[j] += (_rows(widen(g[k])) * rest[k]).gather(-1, order[k].long())
        g_x = torch.empty_like(g)
        for k, image in enumerate(g):
            _put(torch.scatter_add(_rows(image).to(rest.dtype), -1, order[k].long(), g_values[k]), g_x[k])
        return g_x, None, None


def _rows(image: Tensor) -> Tensor:
    """(C, *spatial) in any memory format -> (C, L), contiguous."""
    return image.flatten(1).contiguous()


def _put(rows: Tensor, image: Tensor) -> None:
    """The inverse of `_rows`, into `image`; transposed, so that torch takes its fast path if the formats differ."""
    image.flatten(1).t().copy_(rows.t())
