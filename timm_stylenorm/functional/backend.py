"""The choice of the code for a map; the CPU's operations on whole maps without gradients: moments, affine map, sums.

On a CPU, `torch.var_mean` on a map costs an order of magnitude more than a copy, so these operations use the vectorised
kernels of group norm and batch norm.

`x` is a dense map (see `dense`). Small tensors have the shape (N, C) and the dtype of `precise`: if the mean of a map
is large compared with its deviation, `shift` in x * scale + shift nearly cancels x * scale, and only their difference
is left. If this matters, the map itself is shifted as well, see `moments`.

The kernels get the map from `_view`: as one image with N*C channels, (1, N*C, L, 1), or, if it is channels last, as N
images (N, C, L, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

_GROUP_NORM_EPS = 1e-12  # var is recovered from rstd = (var + eps) ** -0.5, so eps must vanish beside any real var
_PART = 2**21  # bytes of a map passed to group norm at once: what it writes besides the moments stays in the cache
_FAR = 4.0  # float32 sums are exact enough up to this mean / std

# torch had these under other names before 2.2, 2.7 and 2.4, respectively. Captured graphs need them in this form.
is_compiling = (torch.compiler if hasattr(torch.compiler, 'is_compiling') else torch._utils).is_compiling  # noqa: SLF001
is_exporting = torch.compiler.is_exporting if hasattr(torch.compiler, 'is_exporting') else is_compiling
_HAS_AUTOCAST_OF_DEVICES = hasattr(torch.amp, 'is_autocast_available')


ROUTES = (
    'plain',  # formulas that torch differentiates: captured and transformed graphs, empty maps, other devices
    'cpu',  # this file
    'gpu',  # `cuda`: kernels that read and write the map in its own dtype
)
_forced: ContextVar[str | None] = ContextVar('route', default=None)


def route(x: Tensor) -> str:
    """The one of `ROUTES` that computes on the map `x`."""
    if is_compiling() or torch.jit.is_tracing() or x.numel() == 0 or _is_transformed():
        return 'plain'
    forced = _forced.get()
    if forced is not None:
        return forced
    if x.device.type == 'cuda' and x.dtype in (torch.float16, torch.bfloat16, torch.float32):
        return 'gpu' if _has_kernels(is_channels_last(x)) else 'plain'
    return 'cpu' if x.device.type == 'cpu' else 'plain'


@contextmanager
def force(name: str) -> Iterator[None]:
    """A context in which all maps in eager mode take one route; 'gpu' also runs on a CPU, by reference implementations.

    Raises:
        ValueError: The route does not exist.
    """
    if name not in ROUTES:
        raise ValueError(f'force: expected one of {", ".join(ROUTES)}, got {name!r}')
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active()  # noqa: SLF001 (there is no public way to ask)


@cache
def _has_kernels(channels_last: bool) -> bool:
    """Whether `cuda` can run: it needs torch 2.4 to register operators and, for channels-last maps, Triton.

    Triton comes with torch's builds for CUDA.
    """
    return hasattr(torch.library, 'register_fake') and (not channels_last or find_spec('triton') is not None)


def widen(x: Tensor) -> Tensor:
    """The tensor in float32 if it is float16 or bfloat16; otherwise the tensor itself."""
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
    )  # tracing would treat it as a separate block


def precise(small: Tensor) -> Tensor:
    """A small tensor in float64, if the device supports it."""
    return small if small.device.type == 'mps' else small.double()


def spatial(x: Tensor, small: Tensor) -> Tensor:
    """(N, C) -> (N, C, 1, ..., 1), to broadcast against the map `x`."""
    return small.reshape(*small.shape, *(1,) * (x.dim() - 2))


def is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """The map itself if it is channels last, otherwise a contiguous one."""
    return x if is_channels_last(x) else x.contiguous()


def parts(x: Tensor) -> list[slice]:
    """The images of a map in groups that fit into the cache."""
    step = max(1, _PART // max(1, x[:1].numel() * x.element_size()))
    return [slice(start, start + step) for start in range(0, len(x), step)]


def _view(x: Tensor, channels_last: bool) -> Tensor:
    n, c, count = *x.shape[:2], x.shape[2:].numel()
    if channels_last:
        return x.movedim(1, -1).contiguous().view(n, count, 1, c).movedim(-1, 1)
    return x.contiguous().view(1, n * c, count, 1)


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """mean and var, (N, C), and `middle`: the approximate mean of channels whose mean is large beside their deviation.

    `middle` is 0 for other channels, and None if there are no such channels.
    """
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
    """mean and var, summed in the dtype of the map."""
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
    if is_channels_last(x):
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
    channels_last = is_channels_last(x)
    images = _view(g, channels_last).split(1), _view(x, channels_last).split(1)
    means = narrow if channels_last else narrow.reshape(1, -1)
    one = torch.ones_like(means[0])
    sums = [
        torch.ops.aten.native_batch_norm_backward(g_i, x_i, one, m_i, one, None, None, False, 0.0, [False, True, True])
        for g_i, x_i, m_i in zip(*images, means, strict=True)
    ]
    dot, total = (precise(torch.stack(s).view_as(mean)) for s in list(zip(*sums, strict=True))[1:])
    return dot + narrow * total, total
