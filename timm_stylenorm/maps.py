"""What the kernel does to whole maps, without gradients: moments, affine map, reductions.

On a CPU, `torch.var_mean` on a map costs an order of magnitude more than a copy, so these borrow the vectorised kernels
of group norm and batch norm. Elsewhere they are the plain formulas.

`x` is a dense map (see `dense`); small tensors have the shape (N, C). The CPU's kernels see the map as `_view`: one
image of N*C channels, (1, N*C, L, 1), or, channels last, as N images (N, C, L, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP_NORM_EPS = 1e-12  # var is recovered from rstd = (var + eps) ** -0.5, so that eps must vanish beside any real var


def widen(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def spatial(x: Tensor, small: Tensor) -> Tensor:
    """(N, C) -> (N, C, 1, ..., 1), to broadcast against the map `x`."""
    return small.reshape(*small.shape, *(1,) * (x.dim() - 2))


def on_cpu(x: Tensor) -> bool:
    """Whether to borrow the CPU's kernels."""
    return x.device.type == 'cpu'


def is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """The map wide, and contiguous unless it is channels last."""
    x = widen(x)
    return x if is_channels_last(x) else x.contiguous()


def _view(x: Tensor, channels_last: bool) -> Tensor:
    n, c, count = *x.shape[:2], x.shape[2:].numel()
    if channels_last:
        return x.movedim(1, -1).contiguous().view(n, count, 1, c).movedim(-1, 1)
    return x.contiguous().view(1, n * c, count, 1)


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """mean and var, (N, C), and an uninitialised map like `x`."""
    shape, count = x.shape[:2], x.shape[2:].numel()
    if not on_cpu(x):
        var, mean = torch.var_mean(x, dim=tuple(range(2, x.dim())), correction=0)
        return mean, var, torch.empty_like(x)
    if not is_channels_last(x):
        buffer, mean, rstd = torch.native_group_norm(
            x, None, None, shape[0], shape[1], count, shape[1], _GROUP_NORM_EPS
        )
        var = rstd.pow(-2).sub_(_GROUP_NORM_EPS).clamp_(min=0)
        return mean.view(shape), var.view(shape), buffer
    stats = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in _view(x, True).split(1)]
    mean, var = (torch.stack(s) for s in zip(*stats, strict=True))
    return mean, var, torch.empty_like(x)


def affine(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> None:
    """x * scale + shift, into `out`, a map like `x`."""
    if not on_cpu(x) or is_channels_last(x):
        torch.addcmul(spatial(x, shift), x, spatial(x, scale), out=out)
        return
    scale, shift = scale.reshape(-1), shift.reshape(-1)
    zero, one, unused = torch.zeros_like(scale), torch.ones_like(scale), scale.new_empty(0)
    torch.ops.aten.native_batch_norm.out(  # evaluation mode is the fastest affine map that writes where it is told
        _view(x, False), scale, shift, zero, one, False, 0.0, 0.0,
        out=_view(out, False), save_mean=unused, save_invstd=unused,
    )  # fmt: skip


def reductions(g: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """sum(g * (x - mean)) and sum(g) over the positions, each (N, C)."""
    if not on_cpu(x):
        axes = tuple(range(2, x.dim()))
        return (g * (x - spatial(x, mean))).sum(axes), g.sum(axes)
    channels_last = is_channels_last(x)
    images = _view(g, channels_last).split(1), _view(x, channels_last).split(1)
    centre = mean if channels_last else mean.reshape(1, -1)
    one = torch.ones_like(centre[0])
    sums = [
        torch.ops.aten.native_batch_norm_backward(g_i, x_i, one, m_i, one, None, None, False, 0.0, [False, True, True])
        for g_i, x_i, m_i in zip(*images, centre, strict=True)
    ]
    dot, total = (torch.stack(s).view_as(mean) for s in list(zip(*sums, strict=True))[1:])
    return dot, total
