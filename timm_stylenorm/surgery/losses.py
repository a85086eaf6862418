"""The auxiliary losses that style layers leave behind."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import methodcaller
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import StyleNormWarning
from ..functional.backend import is_compiling, widen
from ..layers import AdvBN, StyleLayer
from ..torch_host import is_sharded
from .add import style_layers
from .context import override_attr
from .frozen import warn_if_at_rest
from .hooks import refuse_wrapped


def style_losses(model: nn.Module, target: Tensor | None = None, ignore_index: int | None = None) -> dict[str, Tensor]:
    """Take the weighted auxiliary losses that the layers left in the last training forward pass.

    Args:
        model: A module that contains style layers.
        target: Labels for the terms that need them: class indices (N,), class probabilities (N, K), or, for dense
            layers, label maps (N, H, W) at any resolution. Without it those terms are left out.
        ignore_index: Label that is ignored; by default 255 in label maps, and torch's -100 among class indices.

    Raises:
        ValueError: Labels do not fit the layers, or a styled module has been wrapped, for instance by an adapter.

    Returns:
        Scalars by label: `{'snr.stage1': ..., 'snr.stage3.ce': ...}`; empty if no layer has a loss. If a label occurs
        again, as in a model of two styled networks, a number is appended: 'snr.stage1#2'. If a layer with a loss left
        none, or one that trains nothing, a warning says so once.
    """
    layers = list(style_layers(model))
    refuse_wrapped(model)
    if model.training and torch.is_grad_enabled() and not is_compiling():
        warn_if_at_rest(layers)
        _warn_if_lost(layers)
    losses: dict[str, Tensor] = {}
    deepest: dict[tuple[type, int], tuple[str, float, Tensor]] = {}
    seen: Counter[str] = Counter()
    for label, layer in layers:
        seen[label] += 1
        if seen[label] > 1:
            label = f'{label}#{seen[label]}'
        if layer.aux is not None:
            losses[label] = layer.aux
        if layer.logits is not None:
            deepest[type(layer), seen[label.partition('#')[0]]] = (label, layer.ce_weight, layer.logits)
    for label, weight, logits in deepest.values():
        if target is not None:
            losses[f'{label}.ce'] = weight * _cross_entropy(logits, target, ignore_index)
    if losses:
        _gather_shards(model)
    for _, layer in layers:
        layer.drop_losses()
    return losses


@contextmanager
def summed_losses(model: nn.Module) -> Iterator[nn.Module]:
    """Within, the losses of several forward passes add up, as for two views: `with summed_losses(model): ...`.

    `style_losses`, called within or after it, takes the sums; its target concatenates the labels of all forward passes.
    """
    with override_attr([layer for _, layer in style_layers(model)], 'sums', True):
        yield model


def _warn_if_lost(layers: Iterable[tuple[str, StyleLayer]]) -> None:
    """Warn of losses that a training forward pass should have left, and of losses that train nothing."""
    layers = list(layers)
    if any(isinstance(layer, AdvBN) and layer.disturbed is not None for _, layer in layers):
        return  # this pass began at a cut
    for label, layer in layers:
        if not (layer.has_loss() and layer.training and layer.enabled):
            continue
        if layer.aux is None and layer.logits is None:
            warnings.warn(
                f'{label.partition(".")[0]}: layers that have a loss left none. They have not run since style_losses '
                'was called, or ran in the replicas of nn.DataParallel, which keep their losses: use '
                'DistributedDataParallel',
                StyleNormWarning,
                stacklevel=3,
            )
        elif layer.aux is not None and not layer.aux.requires_grad:
            warnings.warn(
                f'{label.partition(".")[0]}: losses of layers train nothing: all before them is frozen, or runs under '
                'torch.no_grad, or under activation checkpointing, which needs use_reentrant=False',
                StyleNormWarning,
                stacklevel=3,
            )


def _gather_shards(model: nn.Module) -> None:
    """Gather the weights again that FSDP2 (`fully_shard`) has resharded after the forward pass.

    FSDP2 does so itself only for a backward pass that begins at outputs of modules, and these losses are not outputs.
    """
    for module in model.modules():
        inside = (m for m in module.modules() if isinstance(m, StyleLayer))
        if is_sharded(module) and any(layer.has_loss() for layer in inside):
            methodcaller('unshard')(module)


def set_classes(model: nn.Module, num_classes: int, dense: bool) -> None:
    """For a host that knows its classes: pass them to layers with a loss over classes that do not have them yet.

    Args:
        model: A module that contains style layers. Call this function before its optimizer is made.
        num_classes: K; 0 if these losses cannot use the labels, which leaves the losses off.
        dense: Whether labels are maps.

    Raises:
        ValueError: A class head has another number of classes, or is for images although labels are maps, or the other
            way round. The model is unchanged then.
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
