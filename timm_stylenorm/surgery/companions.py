"""What layers need besides themselves, and which of their tensors only training needs."""

from __future__ import annotations

from torch import nn

from ..layers import StyleLayer
from .add import style_layers


def provide(model: nn.Module, companion: str) -> None:
    """Record that a companion is there for the layers of a model that waited for it: their warnings about it end."""
    for _, layer in style_layers(model):
        if layer.waits_for == companion:
            layer.waits_for = ''


def training_only_keys(model: nn.Module) -> set[str]:
    """Keys of tensors that only training needs, whether the layers have them or not; see `StyleLayer`."""
    layers = ((name, m) for name, m in model.named_modules() if isinstance(m, StyleLayer))
    return {f'{name}.{key}'.lstrip('.') for name, layer in layers for key in layer.training_only}
