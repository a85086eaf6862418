"""Helpers of all hosts for recipes: find the recipe of a model, and compute the losses of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..surgery.add import style_layers
from ..surgery.losses import style_losses
from .base import LossTerm

Criterion = Callable[[Tensor, Tensor], Tensor]  # of logits and targets


def recipe_of(model: nn.Module) -> str | None:
    """The recipe without which the style layers of a model do nothing, such as 'advbn' for `resnet50_advbn`."""
    records = (layer.attachment for _, layer in style_layers(model))
    return next((record.recipe for record in records if record is not None and record.recipe), None)


def part_losses(model: nn.Module, logits: Tensor, parts: Sequence[LossTerm], criterion: Criterion) -> dict[str, Tensor]:
    """The losses of one forward pass: 'loss_cls' of each part, or 'loss' if the part has its own criterion, and the
    losses that style layers stored, over all images."""
    losses: dict[str, Tensor] = {}
    for part in parts:
        own, rows = part.criterion, logits[part.rows]
        value = criterion(rows, part.target) if own is None else own(rows)
        if value is not None:
            name, term = part.label('loss_cls' if own is None else 'loss'), part.weight * value
            losses[name] = losses[name] + term if name in losses else term
    labelled = [part for part in parts if part.criterion is None]
    style = style_losses(model, _one_target(labelled, logits) if labelled else None)
    return {**losses, **{parts[0].label(f'style.{name}'): term for name, term in style.items()}}


def _one_target(parts: Sequence[LossTerm], logits: Tensor) -> Tensor:
    """The target of a whole batch: the target of a single part, or class probabilities (N, K) mixed by weight."""
    if len(parts) == 1:
        return parts[0].target
    mixed = torch.zeros_like(logits, dtype=torch.float32)
    for part in parts:
        target = part.target if part.target.is_floating_point() else F.one_hot(part.target, logits.shape[1])
        mixed[part.rows] += part.weight * target
    return mixed / mixed.sum(1, keepdim=True)
