"""Checking a conversion against the model it is for."""

from __future__ import annotations

import timm
from torch import Tensor, nn

from ..checkpoints import compare
from ..errors import unknown
from ..layers.owned import own_names
from ..surgery.add import style_parameters
from . import describe
from .conversion import Conversion

_HEADS = ('fc.', 'classifier.', 'head.')


def verify(conversion: Conversion, model: nn.Module | str | None = None, num_classes: int | None = None) -> nn.Module:
    """Load a conversion into a model; keys that keep their initialisation go into `conversion.report.left`.

    Args:
        conversion: The result of `convert`.
        model: A module; or timm's name of one ('resnet50_ibn_a'), which is built with the style's arguments and the
            number of classes of the conversion; by default `conversion.model`.
        num_classes: Number of classes of a model that is built; by default that of the conversion.

    Returns:
        The model, with the weights.

    Raises:
        ValueError: There is no model, or a key is unknown to it, has another shape, or is missing. A model that was
            passed in is unchanged then.
    """
    label = type(model).__name__ if isinstance(model, nn.Module) else model or conversion.model
    if not isinstance(model, nn.Module):
        model = _build(conversion, model, num_classes)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if 'conv1.weight' in conversion.state_dict and any(key.startswith(('stem.0.', 'conv1.0.')) for key in before):
        raise ValueError(
            f'{label} has a stem of three convolutions (ResNetV1c, ResNet-C, ResNet-D), the checkpoint one 7x7 '
            'convolution: use the plain ResNet'
        )
    wrong, left = _load(conversion.state_dict, model)
    if any(wrong.values()):
        model.load_state_dict(before)
        raise ValueError(_misfit(conversion, f'{label}', wrong))
    conversion.report.left.update(left)
    return model


def _load(state: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Load tensors; return the keys that do not fit, by kind, and the keys that stay as they are, with the reason."""
    own, named = model.state_dict(), own_names(model, state)
    fit = compare(own, named)
    if fit.reshaped:
        return {'of another shape': [f'{key} {fit.shapes[key]}' for key in fit.reshaped]}, {}
    absent = [key for key in own if key not in named]  # loading may fill some in
    loaded = model.load_state_dict(state, strict=False)
    left = {key: why for key in absent if (why := _may_lack(key, model, state)) is not None}
    missing = [key for key in loaded.missing_keys if key not in left]
    return {'unknown': list(loaded.unexpected_keys), 'missing': missing}, left


def _build(conversion: Conversion, name: str | None, num_classes: int | None) -> nn.Module:
    name = name or conversion.model
    if name is None:
        raise ValueError('timm has no name for this network: say which model to verify against, --verify NAME')
    if not timm.is_model(name):
        raise ValueError(unknown('timm model', name, timm.list_models(), 'timm.list_models()'))
    if num_classes is None:
        num_classes = describe.num_classes(conversion.state_dict)
    options: dict = {} if num_classes is None else {'num_classes': num_classes}
    style = conversion.style
    first = style[0] if isinstance(style, list) else style
    if first and len(style or ()) > 1 and name.endswith(f'_{first["type"]}'):
        options['style'] = style
    return timm.create_model(name, **options)


def _may_lack(key: str, model: nn.Module, state: dict[str, Tensor]) -> str | None:
    """Why a checkpoint may lack a key; None if it may not."""
    if key.startswith(_HEADS) and not any(k.startswith(_HEADS) for k in state):
        return 'the classifier, which the checkpoint does not have'
    beside = any(k.startswith(f'{key.rpartition(".")[0]}.') for k in state)  # as the gate of a batch norm
    if key in {name for name, _ in style_parameters(model)} and (beside or '.style.' in key):
        return 'of a style layer, which the checkpoint does not have'
    return 'a counter' if key.endswith('num_batches_tracked') else None


def _misfit(conversion: Conversion, label: str, wrong: dict[str, list[str]]) -> str:
    parts = [f'{len(v)} {k}: {", ".join(v[:3])}{", ..." if len(v) > 3 else ""}' for k, v in wrong.items() if v]
    message = f'the checkpoint does not fit {label}. {"; ".join(parts)}.'
    if all(text.startswith(_HEADS) for text in wrong.get('of another shape', ['other'])):
        return f'{message} Only the number of classes differs: leave the classifier out (drop_classifier).'
    if conversion.model is not None:
        return f'{message} Its tensors are those of {conversion.model}, style={conversion.style}.'
    return message
