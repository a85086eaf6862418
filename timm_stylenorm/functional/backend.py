"""What the kernel does to whole maps, without gradients: moments, affine map, reductions.

On a CPU, `torch.var_mean` on a map costs an order of magnitude more than a copy, so these borrow the vectorised kernels
of group norm and batch norm. Elsewhere they are the plain formulas.

`x` is a dense map (see `dense`); small tensors have the shape (N, C) and the dtype of `precise`, since a map whose mean
is large beside its deviation leaves only their difference: `shift` in x * scale + shift nearly cancels x * scale. On a
CPU the map itself is shifted as well where that matters, see `moments`.

The CPU's kernels see the map as `_view`: one image of N*C channels, (1, N*C, L, 1), or, channels last, as N images
(N, C, L, 1).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

_GROUP_NORM_EPS = 1e-12  # var is recovered from rstd = (var + eps) ** -0.5, so that eps must vanish beside any real var
_PART = 2**21  # bytes of a map that group norm sees at once: what it writes besides the moments stays in the cache
_FAR = 4.0  # float32 sums are exact enough up to this mean / std

# What torch had under other names before: 2.2, 2.7 and 2.4 brought these. Captured graphs need them as they are here.
is_compiling = (torch.compiler if hasattr(torch.compiler, 'is_compiling') else torch._utils).is_compiling  # noqa: SLF001
is_exporting = torch.compiler.is_exporting if hasattr(torch.compiler, 'is_exporting') else is_compiling
_HAS_AUTOCAST_OF_DEVICES = hasattr(torch.amp, 'is_autocast_available')


def widen(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; anything else as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def outside_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which arithmetic on the device of `x` keeps its dtype."""
    kind = x.device.type
    if _HAS_AUTOCAST_OF_DEVICES:
        enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    else:
        enabled = torch.is_autocast_cpu_enabled() if kind == 'cpu' else torch.is_autocast_enabled()
    return (
        torch.autocast(kind, enabled=False) if enabled else nullcontext()
    )  # which tracing takes for a block of its own


def precise(small: Tensor) -> Tensor:
    """A small tensor in float64, where the device knows it."""
    return small if small.device.type == 'mps' else small.double()


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


def parts(x: Tensor) -> list[slice]:
    """The images of a map in groups that fit into the cache; on other devices all at once."""
    step = max(1, _PART // max(1, x[:1].numel() * x.element_size())) if on_cpu(x) else max(1, len(x))
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _view(x: Tensor, channels_last: bool) -> Tensor:
    n, c, count = *x.shape[:2], x.shape[2:].numel()
    if channels_last:
        return x.movedim(1, -1).contiguous().view(n, count, 1, c).movedim(-1, 1)
    return x.contiguous().view(1, n * c, count, 1)


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """mean and var, (N, C), and `middle`: about the mean of channels that lie far from zero beside their deviation.

    `middle` is 0 for other channels, None if there are no far ones, and on other devices, where asking costs more than
    it saves.
    """
    if not on_cpu(x):
        var, mean = torch.var_mean(x, dim=tuple(range(2, x.dim())), correction=0)
        return precise(mean), precise(var), None
    mean, var = _cpu_moments(x)
    far = mean.square() > _FAR**2 * var
    if not far.any():
        return mean, var, None
    middle = torch.where(far, mean, 0.0).to(x.dtype)
    for i in far.any(1).nonzero()[:, 0].tolist():
        near = slice(i, i + 1)
        rest, var[near] = _cpu_moments(x[near] - spatial(x, middle[near]))
        mean[near] = middle[near] + rest
    return mean, var, middle.double()


def _cpu_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """mean and var by sums in the dtype of the map."""
    if not is_channels_last(x):
        view = _view(x, False)
        count = view.shape[2]
        parts = view.split(max(1, _PART // (count * x.element_size())), 1)
        stats = [
            torch.native_group_norm(p, None, None, 1, k := p.shape[1], count, k, _GROUP_NORM_EPS)[1:] for p in parts
        ]
        mean, rstd = (torch.cat(s, 1).view(x.shape[:2]).double() for s in zip(*stats, strict=True))
        return mean, rstd.pow(-2).sub_(_GROUP_NORM_EPS).clamp_(min=0)
    stats = [torch.batch_norm_update_stats(image, None, None, 0.0) for image in _view(x, True).split(1)]
    mean, var = (torch.stack(s).double() for s in zip(*stats, strict=True))
    return mean, var


def affine(x: Tensor, scale: Tensor, shift: Tensor, middle: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """x * scale + shift, as (x - middle) * scale + (shift + middle * scale), into `out` or a new map like `x`."""
    out = torch.empty_like(x) if out is None else out
    if middle is not None:
        x = torch.sub(x, spatial(x, middle.to(x.dtype)), out=out)
        shift = shift + middle * scale
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    if not on_cpu(x) or is_channels_last(x):
        return torch.addcmul(spatial(x, shift), x, spatial(x, scale), out=out)
    scale, shift = scale.reshape(-1), shift.reshape(-1)
    zero, one, unused = torch.zeros_like(scale), torch.ones_like(scale), scale.new_empty(0)
    torch.ops.aten.native_batch_norm.out(  # evaluation mode is the fastest affine map of each channel
        _view(x, False), scale, shift, zero, one, False, 0.0, 0.0,
        out=_view(out, False), save_mean=unused, save_invstd=unused,
    )  # fmt: skip
    return out


def reductions(g: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """sum(g * x) and sum(g) over the positions, each (N, C)."""
    narrow = mean.to(x.dtype)
    if on_cpu(x):
        dot, total = _cpu_reductions(g, x, narrow)
    else:
        axes = tuple(range(2, x.dim()))
        dot, total = (g * (x - spatial(x, narrow))).sum(axes), g.sum(axes)
    dot, total = precise(dot), precise(total)
    return dot + narrow * total, total


def _cpu_reductions(g: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """sum(g * (x - mean)) and sum(g)."""
    channels_last = is_channels_last(x)
    images = _view(g, channels_last).split(1), _view(x, channels_last).split(1)
    means = mean if channels_last else mean.reshape(1, -1)
    one = torch.ones_like(means[0])
    sums = [
        torch.ops.aten.native_batch_norm_backward(g_i, x_i, one, m_i, one, None, None, False, 0.0, [False, True, True])
        for g_i, x_i, m_i in zip(*images, means, strict=True)
    ]
    dot, total = (torch.stack(s).view_as(mean) for s in list(zip(*sums, strict=True))[1:])
    return dot, total
