"""Triton kernels that read and write a map in its own dtype, in any layout whose positions have one stride.

A map is (N, C, L) with strides in elements; offsets have 64 bits. Small tensors are float32 and contiguous. A program
handles one image, BLOCK_C channels, and either one tile of BLOCK_L positions or, if it sums, all tiles of its share of
the positions: each lane of the tile sums separately, and the lanes are added up once at the end. The shares of a
channel are combined afterwards.

The mean is kept as two float32 numbers, `centre` (2, N, C): the rounded mean, and its rounding error. At mean / std
1000, a single number would cost 1e-4 of the gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # elements; sums hold up to four such tiles in registers
_WIDTH = 64  # maximum number of channels of a tile: 128 bytes of a half precision map
_PROGRAMS = 1024  # enough for the largest GPUs


@triton.jit
def _tile(l0, c0, C, L, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr):
    """Positions (BLOCK_L, 1), channels (1, BLOCK_C), and which of them exist."""
    positions = l0 + tl.arange(0, BLOCK_L).to(tl.int64)[:, None]
    channels = c0 + tl.arange(0, BLOCK_C)[None, :]
    return positions, channels, (positions < L) & (channels < C)


@triton.jit
def _place(C, columns, BLOCK_C: tl.constexpr):
    """Image, first channel and row of this program; a row has `columns` programs, for all images and channels."""
    column = tl.program_id(0) % columns
    blocks = tl.cdiv(C, BLOCK_C)
    return (column // blocks).to(tl.int64), (column % blocks) * BLOCK_C, (tl.program_id(0) // columns).to(tl.int64)


@triton.jit
def _small(pointer, n, channels, C):
    """Values of a small tensor (N, C) for the channels of a tile, (1, BLOCK_C)."""
    return tl.load(pointer + n * C + channels, mask=channels < C, other=0.0)


@triton.jit
def _mean(centre_ptr, n, channels, C, size, CENTRE: tl.constexpr):
    """Both numbers of the mean; 0 for rows that `centre` does not have; a row has `size` = N * C values."""
    zero = tl.zeros(channels.shape, tl.float32)
    mean = _small(centre_ptr, n, channels, C) if CENTRE > 0 else zero
    rest = _small(centre_ptr + size, n, channels, C) if CENTRE > 1 else zero
    return mean, rest


@triton.jit
def moments_kernel(
    x_ptr, shares_ptr, C, L, size, columns, shares, tiles, x_n, x_c, x_l, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Centre, rest of the mean and sum of squared deviations of each share, (3, shares, N, C), by Welford's formula."""
    n, c0, share = _place(C, columns, BLOCK_C)
    positions, channels, first = _tile(share * tiles * BLOCK_L, c0, C, L, BLOCK_L, BLOCK_C)
    x_at = x_ptr + n * x_n + positions * x_l + channels.to(tl.int64) * x_c
    pilot = tl.load(x_at, mask=first, other=0.0).to(tl.float32)
    rest, squares = tl.zeros_like(pilot), tl.zeros_like(pilot)
    present = (positions < L).to(tl.float32)
    count = present
    for t in range(1, tiles):
        x_at += BLOCK_L * x_l
        positions += BLOCK_L
        mask = (positions < L) & (channels < C)
        value = tl.load(x_at, mask=mask, other=0.0).to(tl.float32) - pilot
        delta = tl.where(mask, value - rest, 0.0)
        rest += delta / (t + 1)
        squares += delta * tl.where(mask, value - rest, 0.0)
        count += (positions < L).to(tl.float32)
    centre = tl.sum(pilot, 0) / tl.sum(present, 0)
    rest = tl.where(first, (pilot - centre[None, :]) + rest, 0.0)
    mean = tl.sum(rest * count, 0) / tl.sum(count, 0)
    rest = tl.where(first, rest - mean[None, :], 0.0)
    squares = tl.sum(squares + rest * rest * count, 0)
    own = c0 + tl.arange(0, BLOCK_C)
    at = shares_ptr + share * size + n * C + own
    tl.store(at, centre, mask=own < C)
    tl.store(at + shares * size, mean, mask=own < C)
    tl.store(at + 2 * shares * size, squares, mask=own < C)


@triton.jit
def merge_kernel(shares_ptr, centre_ptr, var_ptr, L, size, shares, rows, BLOCK: tl.constexpr):
    """The moments of all shares by Chan's formula; a share has `rows` positions, the last one the remainder."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < size
    at = shares_ptr + i
    centre = tl.load(at, mask=mask, other=0.0)
    mean = tl.load(at + shares * size, mask=mask, other=0.0)
    squares = tl.load(at + 2 * shares * size, mask=mask, other=0.0)
    count = tl.minimum(rows, L).to(tl.float32)
    for s in range(1, shares):
        at += size
        own = tl.minimum(rows, L - s * rows).to(tl.float32)
        other = tl.load(at + shares * size, mask=mask, other=0.0)
        delta = (tl.load(at, mask=mask, other=0.0) - centre) + other - mean
        squares += tl.load(at + 2 * shares * size, mask=mask, other=0.0) + delta * delta * (own * count / (own + count))
        count += own
        mean += delta * (own / count)
    rounded = centre + mean
    tl.store(centre_ptr + i, rounded, mask=mask)
    tl.store(centre_ptr + size + i, (centre - rounded) + mean, mask=mask)
    tl.store(var_ptr + i, squares / count, mask=mask)


@triton.jit
def affine_kernel(
    x_ptr, y_ptr, scale_ptr, level_ptr, centre_ptr, C, L, size, columns, x_n, x_c, x_l, y_n, y_c, y_l,
    CENTRE: tl.constexpr, LEVEL: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = (x - mean) * scale + level; without a centre the mean is 0, without LEVEL the level is 0."""
    n, c0, row = _place(C, columns, BLOCK_C)
    positions, channels, mask = _tile(row * BLOCK_L, c0, C, L, BLOCK_L, BLOCK_C)
    wide = channels.to(tl.int64)
    mean, rest = _mean(centre_ptr, n, channels, C, size, CENTRE)
    x = tl.load(x_ptr + n * x_n + positions * x_l + wide * x_c, mask=mask, other=0.0).to(tl.float32)
    y = ((x - mean) - rest) * _small(scale_ptr, n, channels, C)
    if LEVEL:
        y += _small(level_ptr, n, channels, C)
    tl.store(y_ptr + n * y_n + positions * y_l + wide * y_c, y, mask=mask)


@triton.jit
def sums_kernel(
    g_ptr, x_ptr, shares_ptr, centre_ptr, C, L, size, columns, shares, tiles, g_n, g_c, g_l, x_n, x_c, x_l,
    CENTRE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of g and of g * (x - mean) of each share, (2, shares, N, C)."""
    n, c0, share = _place(C, columns, BLOCK_C)
    positions, channels, mask = _tile(share * tiles * BLOCK_L, c0, C, L, BLOCK_L, BLOCK_C)
    wide = channels.to(tl.int64)
    g_at = g_ptr + n * g_n + positions * g_l + wide * g_c
    x_at = x_ptr + n * x_n + positions * x_l + wide * x_c
    mean, rest = _mean(centre_ptr, n, channels, C, size, CENTRE)
    total, dot = tl.zeros((BLOCK_L, BLOCK_C), tl.float32), tl.zeros((BLOCK_L, BLOCK_C), tl.float32)
    for _ in range(tiles):
        mask = (positions < L) & (channels < C)
        g = tl.load(g_at, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_at, mask=mask, other=0.0).to(tl.float32)
        total += g
        dot += g * ((x - mean) - rest)
        positions += BLOCK_L
        g_at += BLOCK_L * g_l
        x_at += BLOCK_L * x_l
    own = c0 + tl.arange(0, BLOCK_C)
    at = shares_ptr + share * size + n * C + own
    tl.store(at, tl.sum(total, 0), mask=own < C)
    tl.store(at + shares * size, tl.sum(dot, 0), mask=own < C)


@triton.jit
def gradient_kernel(
    g_ptr, x_ptr, y_ptr, scale_ptr, slope_ptr, level_ptr, centre_ptr, C, L, size, columns,
    g_n, g_c, g_l, x_n, x_c, x_l, y_n, y_c, y_l,
    CENTRE: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = g * scale - (x - mean) * slope - level."""
    n, c0, row = _place(C, columns, BLOCK_C)
    positions, channels, mask = _tile(row * BLOCK_L, c0, C, L, BLOCK_L, BLOCK_C)
    wide = channels.to(tl.int64)
    mean, rest = _mean(centre_ptr, n, channels, C, size, CENTRE)
    g = tl.load(g_ptr + n * g_n + positions * g_l + wide * g_c, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + n * x_n + positions * x_l + wide * x_c, mask=mask, other=0.0).to(tl.float32)
    y = g * _small(scale_ptr, n, channels, C) - ((x - mean) - rest) * _small(slope_ptr, n, channels, C)
    tl.store(y_ptr + n * y_n + positions * y_l + wide * y_c, y - _small(level_ptr, n, channels, C), mask=mask)


class Grid:
    """How a map (N, C, L) is divided among programs.

    Attributes:
        blocks: BLOCK_L and BLOCK_C.
        sizes: C, L and N * C.
        columns: Number of programs for the channels of all images.
        rows: Number of tiles of the positions of a channel.
        tiles: Number of tiles of each share of the positions, if a program sums.
        shares: Number of shares of the positions of a channel.
    """

    def __init__(self, x: Tensor) -> None:
        n, channels, count = x.shape
        width = min(triton.next_power_of_2(channels), _WIDTH)
        height = min(triton.next_power_of_2(count), _TILE // width)
        self.blocks = {'BLOCK_L': height, 'BLOCK_C': width}
        self.sizes = channels, count, n * channels
        self.columns = n * triton.cdiv(channels, width)
        self.rows = triton.cdiv(count, height)
        self.tiles = triton.cdiv(self.rows, max(1, _PROGRAMS // self.columns))
        self.shares = triton.cdiv(self.rows, self.tiles)


def _rows(centre: Tensor | None) -> int:
    return 0 if centre is None else len(centre)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Centre, (2, N, C), and biased variance, (N, C), of a map (N, C, L)."""
    grid = Grid(x)
    _, count, size = grid.sizes
    parts = torch.empty(3, grid.shares, *x.shape[:2], dtype=torch.float32, device=x.device)
    centre, var = parts.new_empty(2, *x.shape[:2]), parts.new_empty(x.shape[:2])
    with torch.cuda.device_of(x):
        moments_kernel[(grid.columns * grid.shares,)](
            x, parts, *grid.sizes, grid.columns, grid.shares, grid.tiles, *x.stride(), **grid.blocks
        )
        rows = grid.tiles * grid.blocks['BLOCK_L']
        merge_kernel[(triton.cdiv(size, 256),)](parts, centre, var, count, size, grid.shares, rows, BLOCK=256)
    return centre, var


def affine(x: Tensor, y: Tensor, scale: Tensor, level: Tensor | None, centre: Tensor | None) -> None:
    """Write (x - mean) * scale + level into y."""
    grid = Grid(x)
    with torch.cuda.device_of(x):
        affine_kernel[(grid.columns * grid.rows,)](
            x, y, scale, scale if level is None else level, scale if centre is None else centre, *grid.sizes,
            grid.columns, *x.stride(), *y.stride(), CENTRE=_rows(centre), LEVEL=level is not None, **grid.blocks,
        )  # fmt: skip


def sums(g: Tensor, x: Tensor, centre: Tensor | None) -> tuple[Tensor, Tensor]:
    """sum(g) and sum(g * (x - mean)), each (N, C)."""
    grid = Grid(x)
    parts = torch.empty(2, grid.shares, *x.shape[:2], dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        sums_kernel[(grid.columns * grid.shares,)](
            g, x, parts, parts if centre is None else centre, *grid.sizes, grid.columns, grid.shares, grid.tiles,
            *g.stride(), *x.stride(), CENTRE=_rows(centre), **grid.blocks,
        )  # fmt: skip
    total, dot = parts.sum(1).unbind()
    return total, dot


def gradient(
    g: Tensor, x: Tensor, y: Tensor, scale: Tensor, slope: Tensor, level: Tensor, centre: Tensor
) -> None:  # fmt: skip
    """Write g * scale - (x - mean) * slope - level into y."""
    grid = Grid(x)
    with torch.cuda.device_of(x):
        gradient_kernel[(grid.columns * grid.rows,)](
            g, x, y, scale, slope, level, centre, *grid.sizes, grid.columns, *g.stride(), *x.stride(), *y.stride(),
            CENTRE=_rows(centre), **grid.blocks,
        )  # fmt: skip
