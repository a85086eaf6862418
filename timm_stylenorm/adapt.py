"""AdaBN: batch norm statistics estimated anew on images of the target domain.

Li, Wang, Shi, Liu, Hou, 'Revisiting Batch Normalization for Practical Domain Adaptation', arXiv:1603.04779.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import BatchInstanceNorm2d


def _images(batch: Any) -> Any:
    """The images of a batch as loaders give it: a tensor, (images, labels), or a dict with `inputs`."""
    if isinstance(batch, dict):
        return batch['inputs']
    return batch[0] if isinstance(batch, list | tuple) else batch


def batch_norms(model: nn.Module) -> list[Any]:
    """The norm layers of a model that keep statistics of the batch."""
    kinds = (_BatchNorm, BatchInstanceNorm2d)
    return [m for m in model.modules() if isinstance(m, kinds) and m.running_mean is not None]


@torch.no_grad()
def adabn(
    model: nn.Module,
    batches: Iterable[Any],
    momentum: float | None = None,
    max_batches: int | None = None,
    forward: Callable[[Any], Any] | None = None,
) -> nn.Module:
    """Replace the running statistics of all batch norms by those of the given images, in place.

    Unlike `torch.optim.swa_utils.update_bn`, everything but the batch norms stays in evaluation mode (dropout, style
    layers that act in training), the statistics can be adapted in part, and a failure puts the old ones back.

    Args:
        model: Its parameters do not change, nor do the modes of its modules.
        batches: Target images: tensors (N, C, H, W), tuples that begin with one, or dicts with `inputs`.
        momentum: None forgets the old statistics and averages over all batches with equal weight. A number in (0, 1]
            keeps the old ones and moves them by this share at each batch.
        max_batches: Stop after so many.
        forward: Called with each batch instead of `model(images)`, for models with another signature.

    Returns:
        The same model.

    Raises:
        ValueError: The model has no batch norm with running statistics, there is no batch, or a momentum out of range.
    """
    norms = batch_norms(model)
    if not norms:
        raise ValueError(f'adabn: {type(model).__name__} has no batch norm with running statistics')
    if momentum is not None and not 0 < momentum <= 1:
        raise ValueError(f'adabn: expected 0 < momentum <= 1 or None, got {momentum}')
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    modes = [(m, m.training) for m in model.modules()]
    before = [(n.momentum, {k: b.clone() for k, b in n.named_buffers(recurse=False)}) for n in norms]
    count, done = 0, False
    try:
        model.eval()
        for norm in norms:
            norm.training = True
            norm.momentum = momentum
            if momentum is None:
                norm.running_mean.zero_()
                norm.running_var.fill_(1)
                norm.num_batches_tracked.zero_()
        for batch in islice(batches, max_batches):
            images = _images(batch)
            _ = forward(batch) if forward else model(images.to(device) if isinstance(images, Tensor) else images)
            count += 1
        if count == 0:
            raise ValueError('adabn: there was no batch to estimate statistics from')
        done = True
    finally:
        for module, mode in modes:
            module.training = mode
        for norm, (old, buffers) in zip(norms, before, strict=True):
            norm.momentum = old
            for key, value in buffers.items() if not done else ():
                getattr(norm, key).copy_(value)
    return model
