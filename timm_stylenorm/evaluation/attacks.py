"""Attacks on images, to measure robustness with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float] | Tensor = (0.0,),
    std: Sequence[float] | Tensor = (1.0,),
    eps: float = 16 / 255,
    cross_entropy: bool = False,
) -> Tensor:
    """Images after one signed gradient step of size `eps` in the direction that raises a loss.

    The loss is minus the mean logit of the right class, without softmax, as in the authors' code of shape-texture
    debiased training (arXiv:2010.05981); or it is the cross-entropy of Goodfellow et al., ICLR 2015,
    arXiv:1412.6572. The model should be in evaluation mode.

    Args:
        model: Classifier; its logits are (N, K).
        images: (N, C, H, W), (values in [0, 1] - mean) / std.
        labels: (N,).
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
        eps: Step size, in units of the values in [0, 1]; the result stays in that range.
        cross_entropy: Whether the loss is the cross-entropy.
    """
    middle, size = _by_channel(mean, images), _by_channel(std, images)
    with torch.inference_mode(False), torch.enable_grad():
        inputs, labels = images.detach().clone().requires_grad_(), labels.clone()
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels) if cross_entropy else -logits.gather(1, labels[:, None]).mean()
        (gradient,) = torch.autograd.grad(loss, inputs)
    attacked = images.detach() + eps / size * gradient.sign()
    return torch.minimum(torch.maximum(attacked, (0 - middle) / size), (1 - middle) / size)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float] | Tensor = (0.0,),
    std: Sequence[float] | Tensor = (1.0,),
    eps: float = 8 / 255,
    step: float = 2 / 255,
    steps: int = 10,
) -> Tensor:
    """Images found by projected gradient ascent on the cross-entropy, by foolbox, from a random start.

    Madry et al., ICLR 2018, arXiv:1706.06083. The arguments are those of `fgsm`, and the size and number of the steps.

    Raises:
        ImportError: foolbox is not installed.
    """
    try:
        import foolbox
    except ImportError:
        raise ImportError('PGD needs foolbox: pip install foolbox') from None
    with torch.inference_mode(False), torch.enable_grad(), _constant(model):
        images, labels = images.detach().clone(), labels.clone()
        middle, size = _by_channel(mean, images).clone(), _by_channel(std, images).clone()
        preprocessing = {'mean': middle.flatten(), 'std': size.flatten(), 'axis': -3}
        network = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device, preprocessing=preprocessing)
        attack = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps)
        attacked, _, _ = attack(network, (images * size + middle).clamp(0, 1), labels, epsilons=eps)
        return (attacked.detach() - middle) / size


@contextmanager
def _constant(model: nn.Module) -> Iterator[None]:
    """The parameters take no gradients: foolbox would leave them there."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _by_channel(values: Sequence[float] | Tensor, images: Tensor) -> Tensor:
    """Values of the channels, (C, 1, 1), to combine with images (N, C, H, W)."""
    return torch.as_tensor(values, device=images.device, dtype=images.dtype).reshape(-1, 1, 1)


Attack = Callable[[nn.Module, Tensor, Tensor, Sequence[float], Sequence[float]], Tensor]
ATTACKS: dict[str, Attack] = {'fgsm': fgsm, 'fgsm-ce': partial(fgsm, cross_entropy=True), 'pgd': pgd}
