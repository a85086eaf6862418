"""Frozen models: the parts of the base model obey its host's freezing, the parts that a style method added train on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from torch import nn

from ..errors import StyleNormWarning
from ..layers import StyleLayer
from .attachment import added_parameters, replaces_norm


def let_style_train(model: nn.Module, mode: bool = True) -> None:
    """Undo a host's freezing for the parts that style methods added to a model; in place.

    An attached layer in another mode gets the mode as a whole; one in the same mode is left alone, so that a host may
    put only the batch norms in it into evaluation mode. The parameters of attached layers train, and so do those that
    the replacement of a norm adds (gates, IBN's instance norm). Layers that were added with `frozen=True` do not
    change.

    Args:
        model: The root module, or the module on which a host called `train`.
        mode: Whether the model trains.
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
    """Whether a layer stands for a norm layer, so that it has the mode that hosts give to norms."""
    return layer.is_norm and (layer.attachment is None or replaces_norm(layer))


def warn_if_at_rest(layers: Iterable[tuple[str, StyleLayer]]) -> None:
    """Warn of layers that are frozen or in evaluation mode while the model trains; shown once for each method.

    Layers that replace norms may be in evaluation mode, like the norms that hosts put into it. Layers that were added
    with `frozen=True` are meant to rest.

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
