"""Frozen hosts: what a base model had obeys its host's freezing, what a style method added goes on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn

from ..errors import StyleNormWarning
from ..layers import StyleLayer
from .attachment import added_parameters, replaces_norm


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
        if isinstance(layer, StyleLayer) and not _is_meant_to_rest(layer):
            if not _follows_norms(layer) and layer.training != mode:
                layer.train(mode)
            for parameter in added_parameters(layer):
                parameter.requires_grad_(True)


def _is_meant_to_rest(layer: StyleLayer) -> bool:
    return layer.attachment is not None and layer.attachment.frozen


def _follows_norms(layer: StyleLayer) -> bool:
    """Whether it stands for a norm layer, and has the mode that hosts give to norms."""
    return layer.is_norm and (layer.attachment is None or replaces_norm(layer))


def warn_if_at_rest(layers: Iterable[tuple[str, StyleLayer]]) -> None:
    """Tell, which Python shows once for each method, what a training model neither trains nor lets act.

    Replacements of norms may be in evaluation, as the norms that hosts put there. Layers that were added with
    `frozen=True` are meant to rest.

    Args:
        layers: The style layers of a model in training mode, and their labels.
    """
    for label, layer in layers:
        if _is_meant_to_rest(layer):
            continue
        added = [parameter.requires_grad for parameter in added_parameters(layer)]
        if not _follows_norms(layer) and not layer.training:
            state = 'in evaluation'
        elif added and not any(added):
            state = 'frozen'
        else:
            continue
        warnings.warn(
            f'{label.partition(".")[0]}: layers are {state} in a model that trains. Let them train by '
            'timm_stylenorm.surgery.frozen.let_style_train(model), before the optimizer is made, or say by '
            'style=dict(..., frozen=True) that they are meant to rest',
            StyleNormWarning,
            stacklevel=3,
        )
