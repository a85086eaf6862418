"""Which covariances instance selective whitening (ISW) lowers: those that react to photometric changes of the images.

Choi et al., 'RobustNet', CVPR 2021, arXiv:2103.15597.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from .errors import StyleNormWarning
from .installed import needing
from .layers import SelectiveWhitening
from .surgery.companions import provide
from .surgery.context import eval_mode, override_attr

with needing(__name__):
    from torchvision.transforms import v2

T = TypeVar('T')

_PHOTOMETRIC = v2.Compose(
    [v2.ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.3), v2.GaussianBlur(11, sigma=(0.15, 1.3))]
)


def photometric_view(images: Tensor) -> Tensor:
    """Colour jitter and blur, drawn anew for each image.

    Args:
        images: RGB, (N, 3, H, W) or (3, H, W), uint8 or float in [0, 1], before any normalisation.
    """
    if images.dim() == 3:
        return _PHOTOMETRIC(images)
    return torch.stack([_PHOTOMETRIC(image) for image in images])


def selective_layers(model: nn.Module) -> list[tuple[str, SelectiveWhitening]]:
    """The ISW layers of a model by name."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, SelectiveWhitening)]


@torch.no_grad()
def select_pairs(
    model: nn.Module,
    batches: Iterable[T],
    forward: Callable[[T], object] | None = None,
    trials: int = 1,
) -> dict[str, int]:
    """Let every ISW layer choose the pairs of channels whose covariance reacts to photometric changes.

    The model runs in evaluation mode. With several processes, each has its own batches, and all choose the same pairs.
    The criterion is the variance over each batch: for one image and its view, it is the reaction alone; for several
    images, it also includes how they differ. The authors use one image, 10 trials, and 500 images in each trial.

    Args:
        model: A model with ISW layers; only their choice of pairs changes.
        batches: Images and their photometric views, [views; images], (2N, 3, H, W), normalised as in training.
        forward: Called with each batch instead of `model(batch)`.
        trials: How often to iterate over `batches`; a data loader that shuffles returns other batches each time. The
            pairs that react in every trial are chosen.

    Returns:
        Name of the layer -> number of chosen pairs.

    Raises:
        ValueError: The model has no ISW layer, `trials` is not positive, or there is no batch. The choice of pairs then
            stays as it was.

    Warns:
        StyleNormWarning: No pair of a layer reacts in every trial, so that its loss stays 0.
    """
    layers = selective_layers(model)
    if not layers:
        raise ValueError(f'select_pairs: {type(model).__name__} has no instance selective whitening (isw)')
    if trials < 1:
        raise ValueError(f'select_pairs: expected at least one trial, got {trials}')
    found: dict[str, Tensor] = {}
    try:
        with eval_mode(model), override_attr([layer for _, layer in layers], 'observing', True):
            for _ in range(trials):
                for batch in batches:
                    _ = forward(batch) if forward else model(batch)
                for _, layer in layers:
                    _sum_over_processes(layer)
                if not all(layer.batches for _, layer in layers):
                    raise ValueError('select_pairs: there was no batch to choose from')
                for name, layer in layers:
                    pairs = layer.reacting()
                    found[name] = found[name] & pairs if name in found else pairs
    finally:
        for _, layer in layers:
            layer.forget()
    chosen = {name: layer.choose(found[name]) for name, layer in layers}
    provide(model, 'pairs')
    idle = [name for name, count in chosen.items() if not count]
    if idle:
        where = ', '.join(idle)
        told = f'isw at {where}: no pair of channels reacts in each of {trials} trials, so that its loss stays 0'
        warnings.warn(told, StyleNormWarning, stacklevel=2)
    return chosen


def _sum_over_processes(layer: SelectiveWhitening) -> None:
    """Sum over all processes, even if this one had no batch, since the others wait."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if layer.variance is None:
            layer.variance = torch.zeros(layer.mask.shape, device=layer.mask.device)
        count = torch.tensor(layer.batches, device=layer.mask.device)
        torch.distributed.all_reduce(count)
        torch.distributed.all_reduce(layer.variance)
        layer.batches = int(count)
