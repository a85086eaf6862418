"""Losses of unsupervised domain adaptation in segmentation, as pure functions of logits.

Notation: logits (N, K, *spatial), K classes; p = softmax(logits) over the classes. Computed in float32 at least.
"""

from __future__ import annotations

from torch import Tensor

from .backend import widen

__all__ = [
    'domain_loss',
    'entropy_loss',
    'image_weighted_entropy_loss',
    'image_weighted_max_square_loss',
    'max_square_loss',
    'soft_cross_entropy',
    'soft_labels',
]


def max_square_loss(logits: Tensor) -> Tensor:
    """Confidence without labels: -mean(p^2) / 2 over images, classes and positions.

    Its gradient grows linearly with confidence, whereas confident pixels dominate the gradient of the entropy. Chen,
    Xue & Cai, ICCV 2019, arXiv:1909.13589; the mean over the classes is as in the authors' code.

    Returns:
        A scalar in [-1/(2K), -1/(2K^2)].
    """
    return -widen(logits).softmax(1).square().mean() / 2


def image_weighted_max_square_loss(logits: Tensor, ratio: float = 0.2) -> Tensor:
    """`max_square_loss` in which a pixel counts more if its class is rare in its image.

        L = -1/(N K) sum over n, k, pixels i of p_nki^2 w_n[argmax_k p_nki],
        w_n[k] = 1 / max(count_n[k]^ratio * total^(1 - ratio), 1)

    count_n[k] of the `total` pixels of image n are predicted as k. As in the authors' code, there is no gradient
    through w and no factor 1/2. Their code is correct only for one image at a time (it broadcasts the weights against
    the classes); this is the mean of its results for single images. Chen, Xue & Cai, ICCV 2019, arXiv:1909.13589.

    Args:
        logits: (N, K, *spatial).
        ratio: 0 weights all pixels equally, 1 gives every predicted class of an image the same sum of weights.

    Raises:
        ValueError: `ratio` outside [0, 1].
    """
    p = widen(logits).softmax(1)
    return -_image_weighted(p.square(), p, ratio)


def entropy_loss(logits: Tensor) -> Tensor:
    """MinEnt, certainty without labels: -mean(p log p) over images, classes and positions.

    The mean over the classes, which divides the entropy of a pixel by K, is as in the code of Chen, Xue & Cai, ICCV
    2019, arXiv:1909.13589, where this loss is the baseline of `max_square_loss`. As there, p carries gradient in
    both places.

    Returns:
        A scalar in [0, log(K)/K].
    """
    return -_p_log_p(logits)[1].mean()


def image_weighted_entropy_loss(logits: Tensor, ratio: float = 0.2) -> Tensor:
    """`entropy_loss` in which a pixel counts more if its class is rare in its image.

        L = -1/(N K) sum over n, k, pixels i of p_nki log p_nki w_n[argmax_k p_nki]

    w, the arguments and the remarks on the authors' code are as in `image_weighted_max_square_loss`.

    Raises:
        ValueError: `ratio` outside [0, 1].
    """
    p, product = _p_log_p(logits)
    return -_image_weighted(product, p, ratio)


def _p_log_p(logits: Tensor) -> tuple[Tensor, Tensor]:
    log_p = widen(logits).log_softmax(1)
    p = log_p.exp()
    return p, p * log_p


def _image_weighted(values: Tensor, p: Tensor, ratio: float) -> Tensor:
    """1/(N K) sum of values (N, K, *spatial), with the weight of each pixel's most probable class in its image."""
    if not 0 <= ratio <= 1:
        raise ValueError(f'image-wise weights: expected 0 <= ratio <= 1, got {ratio}')
    labels, values = p.detach().argmax(1).flatten(1), values.flatten(2)
    counts = values.new_zeros(values.shape[:2]).scatter_add_(1, labels, values.new_ones(labels.shape))
    weights = 1 / (counts**ratio * values.shape[2] ** (1 - ratio)).clamp(min=1)
    return (values.sum(1) * weights.gather(1, labels)).sum() / counts.numel()


def soft_labels(logits: Tensor, cap: float = 1.0) -> Tensor:
    """min(p, cap), not renormalised, without gradient: the labels of FADA's discriminator."""
    return widen(logits.detach()).softmax(1).clamp_(max=cap)


def domain_loss(logits: Tensor, labels: Tensor, domain: int) -> Tensor:
    """Cross entropy of a discriminator that predicts domain and class together (FADA).

        L = -mean over images and positions of sum over k of t_k log softmax(z)_(domain K + k)

    The target is [t, 0] for domain 0, the source, and [0, t] for domain 1. Wang et al., ECCV 2020, arXiv:2007.09222.

    Args:
        logits: z, (N, 2K, *spatial): K classes of the source, then K of the target.
        labels: t, (N, K, *spatial), see `soft_labels`.
        domain: 0 or 1.
    """
    return -(labels * widen(logits).log_softmax(1).chunk(2, 1)[domain]).sum(1).mean()


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-sum over k of t_k log p_k, averaged over the labelled pixels: those with t > 0 for some class.

    Args:
        logits: (N, K, *spatial).
        labels: t, of the same shape, non-negative.
    """
    loss = -(labels * widen(logits).log_softmax(1)).sum()
    return loss / (labels.amax(1) > 0).sum().clamp(min=1)
