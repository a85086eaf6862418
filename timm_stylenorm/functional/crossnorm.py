"""CrossNorm as pure functions of tensors and draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .affine import centred_affine, instance_moments
from .styles import unbiased_std

Box = tuple[slice, slice]  # rows and columns


def crossnorm(
    x: Tensor,
    perm: Tensor | None = None,
    channel_perm: Tensor | None = None,
    style_box: Box | None = None,
    content_box: Box | None = None,
    lam: float = 0.0,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel of each image takes the statistics of a channel of another image, from crops or from whole maps.

        y_nc = lam * x_nc + (1 - lam) * (s_ij * (x_nc - m_nc) / s_nc + m_ij),
        i = perm[n],    j = channel_perm[c],    s = sqrt(u + eps)

    Gradients flow through both statistics. Tang et al., ICCV 2021, arXiv:2102.02811.

    Args:
        x: (N, C, *spatial); (N, C, H, W) with a box.
        perm: (N,), the partner of each image; None: the image itself.
        channel_perm: (C,), the partner of each channel, in all images; None: the channel itself.
        style_box: Rows and columns; m_ij, s_ij are computed inside this box of the partner.
        content_box: Rows and columns; m_nc, s_nc are computed inside this box, and only the box changes.
        lam: Share of the original map that stays.
        eps: Added to the unbiased variances.
    """
    content = x if content_box is None else _inside(x, content_box)
    perms = [(axis, p) for axis, p in enumerate((perm, channel_perm)) if p is not None]
    if style_box is None and content_box is None:
        rule = partial(_own_rule, axes=[axis for axis, _ in perms], count=x.shape[2:].numel(), lam=lam, eps=eps)
        return centred_affine(x, rule, *(p for _, p in perms))
    style = x if style_box is None else _inside(x, style_box)
    mean, var = _permuted(instance_moments(style), perms)
    std = unbiased_std(var, style.shape[2:].numel(), eps)
    y = centred_affine(content, partial(_rule, count=content.shape[2:].numel(), lam=lam, eps=eps), mean, std)
    if content_box is None:
        return y
    whole = x.clone()
    _inside(whole, content_box).copy_(y)
    return whole


def crop_box(height: int, width: int, share: float, centre: Sequence[int]) -> tuple[Box, bool]:
    """A box around a centre that has a share of a map and the map's proportions, cut off at the border.

    Args:
        height: H of the map.
        width: W of the map.
        share: r; the box has int(H * sqrt(r)) // 2 rows on each side of the centre, and columns likewise for W.
        centre: Row and column of the centre.

    Returns:
        The rows and columns of the box, and whether it covers more than a tenth of the map.
    """
    box = []
    for size, middle in zip((height, width), centre, strict=True):
        half = int(size * math.sqrt(share)) // 2
        box.append(slice(max(middle - half, 0), min(middle + half, size)))
    rows, columns = box
    covered = (rows.stop - rows.start) * (columns.stop - columns.start)
    return (rows, columns), covered > 0.1 * height * width


def _inside(x: Tensor, box: Box) -> Tensor:
    rows, columns = box
    return x[..., rows, columns]


def _permuted(moments: Sequence[Tensor], perms: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    mean, var = moments
    for axis, perm in perms:
        mean, var = mean.index_select(axis, perm), var.index_select(axis, perm)
    return mean, var


def _own_rule(
    mean: Tensor, var: Tensor, *perms: Tensor, axes: Sequence[int], count: int, lam: float, eps: float
) -> tuple[Tensor, Tensor]:
    style_mean, style_var = _permuted((mean, var), list(zip(axes, perms, strict=True)))
    return _rule(mean, var, style_mean, unbiased_std(style_var, count, eps), count=count, lam=lam, eps=eps)


def _rule(
    mean: Tensor, var: Tensor, style_mean: Tensor, style_std: Tensor, *, count: int, lam: float, eps: float
) -> tuple[Tensor, Tensor]:
    scale = style_std / unbiased_std(var, count, eps)
    if lam == 0:
        return scale, style_mean
    return torch.lerp(scale, torch.ones_like(scale), lam), torch.lerp(style_mean, mean, lam)
