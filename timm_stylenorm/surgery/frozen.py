"""Frozen hosts: what a base model had obeys its host's freezing, what a style method added goes on."""

from __future__ import annotations

from torch import nn

from ..layers import StyleLayer


def let_style_train(model: nn.Module, mode: bool = True) -> None:
    """Undo, for what style methods added to a model, what its host does to frozen parts of the base; in place.

    Attached layers get the mode, where theirs is another: whole, so that a host that only put the batch norms in them
    into evaluation has its way. Their parameters train, and so do those that come with the replacement of a norm
    (gates, IBN's instance norm). Layers that were added with `frozen=True` are left as they are.

    Args:
        model: The root, or what a host's `train` was called on.
        mode: Whether it trains.
    """
    for layer in model.modules():
        if isinstance(layer, StyleLayer) and layer.label is not None and not layer.frozen:
            if not layer.replaced and layer.training != mode:
                layer.train(mode)
            for parameter in layer.added_parameters():
                parameter.requires_grad_(True)
