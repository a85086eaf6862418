"""Style operations as pure functions of tensors; every random draw is an argument.

Notation: x is a feature map (N, C, *spatial); m, v its instance mean and biased variance, (N, C); n the number of
positions; u = v * n / (n - 1) the unbiased variance.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .affine import centred_affine, instance_moments


def unbiased_std(var: Tensor, count: int, eps: float) -> Tensor:
    """sqrt(u + eps) from the biased variance over `count` positions; a single position has variance 0."""
    return (var * (count / max(count - 1, 1)) + eps).sqrt()


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Instance norm: weight * (x - m) / sqrt(v + eps) + bias.

    Args:
        x: (N, C, *spatial).
        weight: (C,).
        bias: (C,).
        eps: Added to the biased variance.
    """
    return centred_affine(x, partial(instance_norm_rule, eps=eps), weight, bias)


def instance_norm_rule(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and level, (N, C), of `instance_norm`.

    `pow`, here and in other rules: a quotient has a longer gradient, and torch 2.1 exports `rsqrt` to invalid files.
    """
    return weight * (var + eps).pow(-0.5), bias


def adain(content: Tensor, style: Tensor, eps: float = 1e-5) -> Tensor:
    """Adaptive instance normalisation: the content with the channel statistics of the style.

        y = s(style) * (content - m(content)) / s(content) + m(style),    s = sqrt(u + eps)

    Differentiable with respect to both arguments. Huang & Belongie, ICCV 2017, arXiv:1703.06868, Eq. (8).

    Args:
        content: (N, C, *spatial).
        style: (N, C, *any spatial).
        eps: Added to the unbiased variances.

    Raises:
        ValueError: The two differ in N or C.
    """
    if content.shape[:2] != style.shape[:2]:
        raise ValueError(
            f'adain: content and style must agree in images and channels, got {tuple(content.shape)} '
            f'and {tuple(style.shape)}'
        )
    mean, var = instance_moments(style)
    std = unbiased_std(var, style.shape[2:].numel(), eps)
    rule = partial(_adain_rule, count=content.shape[2:].numel(), eps=eps)
    return centred_affine(content, rule, mean, std)


def _adain_rule(
    mean: Tensor, var: Tensor, style_mean: Tensor, style_std: Tensor, *, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    return style_std / unbiased_std(var, count, eps), style_mean


def exchange_styles(x: Tensor, perm: Tensor, axis: int = 0, eps: float = 1e-5) -> Tensor:
    """`adain` of a map and a permutation of it, without the permuted copy.

    Args:
        x: (N, C, *spatial).
        perm: The permutation, (N,) for images (axis 0) or (C,) for the channels of every image (axis 1).
        axis: 0 or 1.
        eps: Added to the unbiased variances.
    """
    return centred_affine(x, partial(_exchange_rule, axis=axis, count=x.shape[2:].numel(), eps=eps), perm)


def _exchange_rule(
    mean: Tensor, var: Tensor, perm: Tensor, *, axis: int, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    style_std = unbiased_std(var.index_select(axis, perm), count, eps)
    return _adain_rule(mean, var, mean.index_select(axis, perm), style_std, count=count, eps=eps)


def permuted_adain(x: Tensor, perm: Tensor, eps: float = 1e-5, gate: Tensor | None = None) -> Tensor:
    """Each image takes the channel statistics of another image of its batch.

        y_i = sg(s_j) * (x_i - m_i) / (s_i + eps) + sg(m_j),    j = perm[i],  s = sqrt(u + eps)

    sg stops the gradient. eps enters twice for the content, as in the authors' file permutedAdaIN.py, so an image
    that the permutation maps to itself is not exactly unchanged. Nuriel et al., CVPR 2021, arXiv:2010.05785.

    Args:
        x: (N, C, *spatial).
        perm: (K,) integers below N, K <= N. Images K, K+1, ... pass unchanged.
        eps: Added to the unbiased variance, and again to the content's deviation.
        gate: Optional boolean scalar; if it is false, `x` is returned (a branch that graphs can contain).

    Raises:
        ValueError: `perm` is longer than the batch.
    """
    if len(perm) > len(x):
        raise ValueError(f'permuted_adain: {len(perm)} styles for a batch of {len(x)} images')
    rule = partial(_permuted_adain_rule, count=x.shape[2:].numel(), eps=eps)
    y = centred_affine(x, rule, perm)
    return y if gate is None else torch.where(gate, y, x)


def _permuted_adain_rule(mean: Tensor, var: Tensor, perm: Tensor, *, count: int, eps: float) -> tuple[Tensor, Tensor]:
    k = len(perm)
    std = unbiased_std(var, count, eps)
    scale = std[perm].detach() / ((std if k == len(std) else std[:k]) + eps)
    level = mean[perm].detach()
    if k < len(mean):
        scale, level = torch.cat([scale, torch.ones_like(mean[k:])]), torch.cat([level, mean[k:]])
    return scale, level


def mixstyle(x: Tensor, perm: Tensor, lmda: Tensor, eps: float = 1e-6) -> Tensor:
    """Each image takes a mixture of its own channel statistics and those of another image.

        y_i = (x_i - m_i) / s_i * (l_i s_i + (1 - l_i) s_j) + l_i m_i + (1 - l_i) m_j,
        j = perm[i],    s = sqrt(u + eps)

    The gradient treats all statistics as constants. Zhou et al., ICLR 2021, arXiv:2104.02008.

    Args:
        x: (N, C, *spatial).
        perm: (N,) integers below N.
        lmda: (N,), the share l of an image's own statistics.
        eps: Added to the unbiased variance.
    """
    rule = partial(_mixstyle_rule, count=x.shape[2:].numel(), eps=eps)
    return centred_affine(x, rule, perm, lmda, through_moments=False)


def _mixstyle_rule(
    mean: Tensor, var: Tensor, perm: Tensor, lmda: Tensor, *, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    std, own = unbiased_std(var, count, eps), lmda[:, None]
    return torch.lerp(std[perm], std, own) / std, torch.lerp(mean[perm], mean, own)


def uncertain_style(x: Tensor, noise_mean: Tensor, noise_std: Tensor, eps: float = 1e-6) -> Tensor:
    """Channel statistics drawn from normal distributions around themselves (DSU).

        y = (x - m) / s * (s + e_s S(s)) + m + e_m S(m),
        s = sqrt(u + eps),    S(q) = sqrt(unbiased variance of q over the batch + eps)

    A batch of one has S = sqrt(eps). Gradients flow through all statistics. Li et al., ICLR 2022, arXiv:2202.03958.

    Args:
        x: (N, C, *spatial).
        noise_mean: e_m, (N, C), standard normal.
        noise_std: e_s, (N, C), standard normal.
        eps: Added to all variances.
    """
    return centred_affine(x, partial(_dsu_rule, count=x.shape[2:].numel(), eps=eps), noise_mean, noise_std)


def _dsu_rule(
    mean: Tensor, var: Tensor, noise_mean: Tensor, noise_std: Tensor, *, count: int, eps: float
) -> tuple[Tensor, Tensor]:
    std = unbiased_std(var, count, eps)

    def spread(q: Tensor) -> Tensor:
        return (q.var(0, correction=min(len(q) - 1, 1)) + eps).sqrt()

    return 1 + noise_std * spread(std) / std, mean + noise_mean * spread(mean)
