"""Attacks on images, to measure robustness with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float] | Tensor = (0.0,),
    std: Sequence[float] | Tensor = (1.0,),
    eps: float = 16 / 255,
) -> Tensor:
    """Images one signed gradient step of size `eps` away, in the direction that lowers the logits of their classes.

    The loss is minus the mean logit of the right class, without softmax, as the authors of shape-texture debiased
    training measure it (arXiv:2010.05981, their code); Goodfellow et al., ICLR 2015, arXiv:1412.6572, take the
    cross-entropy. The model should be in evaluation mode.

    Args:
        model: Classifier; its logits are (N, K).
        images: (N, C, H, W), (values in [0, 1] - mean) / std.
        labels: (N,).
        mean: For each channel.
        std: For each channel.
        eps: In units of the values in [0, 1], where the result stays too.
    """
    middle, size = (torch.as_tensor(v, device=images.device, dtype=images.dtype).reshape(-1, 1, 1) for v in (mean, std))
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        loss = -model(inputs).gather(1, labels[:, None]).mean()
        (gradient,) = torch.autograd.grad(loss, inputs)
    attacked = images.detach() + eps / size * gradient.sign()
    return torch.minimum(torch.maximum(attacked, (0 - middle) / size), (1 - middle) / size)
