"""The losses of style layers, on logits and on normalised maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import outside_autocast, widen


def entropy(logits: Tensor, floor: float = 1e-6) -> Tensor:
    """Mean entropy of softmax(logits) over images and positions, a scalar.

    Args:
        logits: (N, K) or (N, K, *spatial).
        floor: Probabilities below this value are dropped from the sum, as in SNR's file model_resnet.py.
    """
    p = widen(logits).softmax(1)
    return -torch.where(p < floor, 0.0, p * p.clamp(min=floor).log()).sum(1).mean()


def dual_causality_loss(normalised: Tensor, restituted: Tensor, contaminated: Tensor) -> Tensor:
    """SNR's loss: restitution must sharpen the prediction, the rest of the residual must blur it.

        L = softplus(H(restituted) - H(normalised)) + softplus(H(normalised) - H(contaminated))

    H is the entropy of the softmax, averaged over the batch (and over the positions of dense logits) before the
    comparison, as in the authors' file model_resnet.py; the paper compares single images.
    Jin et al., arXiv:2101.00588, Sec. 3.

    Args:
        normalised: Logits of the instance-normalised features, (N, K) or (N, K, *spatial).
        restituted: Logits after the useful part of the residual was put back, same shape.
        contaminated: Logits after the useless part was put back, same shape.

    Returns:
        A scalar, unweighted.
    """
    h_in, h_useful, h_useless = entropy(normalised), entropy(restituted), entropy(contaminated)
    return F.softplus(h_useful - h_in) + F.softplus(h_in - h_useless)


def consistency_loss(*logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the predictions of several passes over the same images.

        J = mean over passes of KL(p_i || m),    m = clamp(mean of all p_i, 1e-7, 1),    p_i = softmax(logits_i)

    It is averaged over images (and positions); all passes and m carry gradient. Hendrycks et al., ICLR 2020,
    arXiv:1912.02781 (AugMix); for passes with CrossNorm, Tang et al., ICCV 2021, arXiv:2102.02811.

    Args:
        *logits: Logits of each pass, (N, K) or (N, K, *spatial).

    Returns:
        A scalar, unweighted.
    """
    with outside_autocast(logits[0]):
        predictions = [widen(z).softmax(1) for z in logits]
        mixture = (sum(predictions[1:], predictions[0]) / len(predictions)).clamp(1e-7, 1).log()
        terms = [F.kl_div(mixture, p, reduction='none').sum(1).mean() for p in predictions]
        return torch.stack(terms).mean()


def covariance(z: Tensor) -> Tensor:
    """Covariances of the channels of every image, z z^T / (n - 1) + 1e-5 I, for a normalised map.

    Args:
        z: (N, C, *spatial), mean 0 and variance 1 in every channel.

    Returns:
        (N, C, C), float32 (float64 for float64 maps).
    """
    flat = widen(z).flatten(2)
    with outside_autocast(z):  # a sum over the positions overflows in half precision
        product = flat @ flat.transpose(1, 2) / max(flat.shape[2] - 1, 1)
    return product + 1e-5 * torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)


def whitening_loss(z: Tensor, mask: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """Mean absolute covariance of selected pairs of channels, in excess of a margin.

        L = mean over images of max(0, sum |covariance(z) * mask| - margin) / sum(mask)

    This is the loss IRW (with a margin and all pairs) or ISW (without a margin) of Choi et al., CVPR 2021,
    arXiv:2103.15597; the margin is as in the authors' code.

    Args:
        z: Normalised map, (N, C, *spatial).
        mask: (C, C) of 0 and 1, strictly upper triangular.
        margin: The value that the sum may reach without a loss.

    Returns:
        A scalar.
    """
    total = (covariance(z) * mask).abs().sum((1, 2)) - margin
    return (total.clamp(min=0) / mask.sum().clamp(min=1)).mean()
