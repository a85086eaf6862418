"""The auxiliary losses that style layers leave behind."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..functional.backend import widen
from .add import style_layers
from .frozen import warn_if_at_rest


def style_losses(model: nn.Module, target: Tensor | None = None, ignore_index: int | None = None) -> dict[str, Tensor]:
    """Take the weighted auxiliary losses that the layers left in the last training forward.

    Args:
        model: Any module that contains style layers.
        target: Labels for the terms that need them: class indices (N,), class probabilities (N, K), or, for dense
            layers, label maps (N, H, W) at any resolution. Without it those terms are left out.
        ignore_index: Label that counts nowhere; by default 255 in label maps, and torch's -100 among class indices.

    Returns:
        Scalars by label: `{'snr.stage1': ..., 'snr.stage3.ce': ...}`; empty where no layer has a loss. Where a label
        comes again, as in a model of two styled networks, a number is appended: 'snr.stage1#2'.
    """
    layers = list(style_layers(model))
    if model.training:
        warn_if_at_rest(layers)
    losses: dict[str, Tensor] = {}
    deepest: dict[tuple[type, int], tuple[str, Any]] = {}
    seen: Counter[str] = Counter()
    for label, layer in layers:
        seen[label] += 1
        if seen[label] > 1:
            label = f'{label}#{seen[label]}'
        if layer.aux is not None:
            losses[label] = layer.aux
        if layer.logits is not None:
            deepest[type(layer), seen[label.partition('#')[0]]] = (label, layer)
    for label, layer in deepest.values():
        if target is not None:
            losses[f'{label}.ce'] = layer.ce_weight * _cross_entropy(layer.logits, target, ignore_index)
    for _, layer in layers:
        layer.drop_losses()
    return losses


def set_classes(model: nn.Module, num_classes: int, dense: bool) -> None:
    """For a host that knows its labels: layers with a loss over classes get them, unless they have them already.

    Args:
        model: Any module that contains style layers; to be called before its optimizer is made.
        num_classes: K; 0 for labels that these losses do not take, which leaves them off.
        dense: Whether labels are maps.

    Raises:
        ValueError: A class head with another number of classes, or an image head where labels are maps, or the other
            way. The model is unchanged then.
    """
    layers: list[tuple[str, Any]] = list(style_layers(model))
    for label, layer in layers:
        head = getattr(layer, 'head', None)
        if head is not None and num_classes == 0:
            raise ValueError(f'{label}: its class head (num_classes) learns one label for each image, not several')
        if head is not None and (head.out_features != num_classes or layer.dense != dense):
            raise ValueError(
                f'{label}: its loss has num_classes={head.out_features}, dense={layer.dense}, and this model '
                f'num_classes={num_classes}, dense={dense}: correct `style`'
            )
    for _, layer in layers:
        if layer.waits_for == 'classes':
            layer.set_classes(num_classes, dense)


def _cross_entropy(logits: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    if ignore_index is None:
        ignore_index = 255 if target.dim() == 3 else -100
    if target.dim() == logits.dim() == 3:
        logits = _as_map(logits, target)
    if target.dim() == 3 and logits.dim() == 4:
        target = F.interpolate(target[:, None].float(), logits.shape[2:], mode='nearest')[:, 0].long()
    if target.is_floating_point():
        return F.cross_entropy(widen(logits), target)
    if logits.shape[2:] != target.shape[1:]:
        raise ValueError(
            f'style_losses: logits {tuple(logits.shape)} and labels {tuple(target.shape)} do not fit; '
            'image labels need dense=False, label maps dense=True'
        )
    # a sum over the counted labels, so that a batch without any gives 0 and not NaN
    total = F.cross_entropy(widen(logits), target, ignore_index=ignore_index, reduction='sum')
    return total / (target != ignore_index).sum().clamp(min=1)


def _as_map(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of tokens (N, K, L) as a map (N, K, h, w) with the proportions of the labels (N, H, W)."""
    height = round((logits.shape[2] * target.shape[1] / target.shape[2]) ** 0.5)
    width = logits.shape[2] // max(height, 1)
    return logits.unflatten(2, (height, width)) if height * width == logits.shape[2] else logits
