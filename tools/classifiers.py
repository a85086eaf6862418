"""Classifiers by their names on a command line: timm models, also with your own weights, or models of a config."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from cli import load_config, parser, tested_parts

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

    Named = tuple[nn.Module, str, str]  # a model, its name in tables, and the source of its weights


def build(name: str, num_classes: int | None) -> Named:
    """The model with this name on the command line, its name in tables, and the source of its weights.

    Raises:
        ValueError: timm has no such model, or the weights do not fit.
        FileNotFoundError: The file does not exist.
    """
    import timm

    import timm_stylenorm  # noqa: F401 (registers the names with a style)
    from timm_stylenorm.errors import unknown
    from timm_stylenorm.models import default_cfgs

    base, _, file = name.partition('=')
    if Path(base).suffix == '.py':
        return of_config(base, file)
    plain = base.partition('.')[0]
    register(plain)
    if ':' not in base and not timm.is_model(plain):
        raise ValueError(unknown('timm model', base, timm.list_models(), 'timm.list_models()'))
    if file and num_classes is None:
        num_classes = classes_in(file, base)
    classes = {} if num_classes is None else {'num_classes': num_classes}
    if file:
        model = timm.create_model(base, **classes)
        load(model, file)
        return model, f'{base} ({Path(file).name})', f'checkpoint {file}'
    model = timm.create_model(base, pretrained=True, **classes)
    told = f'published as {base}'
    if plain in default_cfgs:
        told = f'those of the plain network ({base}): never trained with the style of its name'
    return model, base, told


def classes_in(file: str, name: str) -> int | None:
    """The number of outputs of a timm model's head in a checkpoint file; None if the file holds no such head."""
    import timm

    from timm_stylenorm.checkpoints import read_state_dict

    head = getattr(timm.get_pretrained_cfg(name), 'classifier', None)
    head = head[0] if isinstance(head, tuple | list) else head
    state = read_state_dict(file)
    found = (state.get(f'{prefix}{head}.weight') for prefix in ('', 'net.', 'module.'))
    return next((len(weight) for weight in found if weight is not None), None)


def load(model: nn.Module, file: str) -> None:
    """Loads all weights of a model from a checkpoint file of timm or the Runner, or a plain state dict.

    Raises:
        ValueError: The file holds code or no weights, or does not fit the model.
    """
    from timm_stylenorm.checkpoints import read_state_dict
    from timm_stylenorm.surgery.weights import fitted

    state, fit = fitted(model, read_state_dict(file))
    if not fit:
        raise ValueError(f"'{file}' does not fit this {type(model).__name__}: {fit}")
    model.load_state_dict(state, strict=False)


def register(name: str) -> None:
    """Registers the name of a model with a style, unless it is registered already."""
    import timm

    from timm_stylenorm import register_variants
    from timm_stylenorm.methods import ROWS

    for method in ROWS:
        base = name.removesuffix(f'_{method}')
        if base != name and timm.is_model(base) and not timm.is_model(name):
            register_variants(base, [method])


def of_config(config: str, file: str) -> Named:
    """The classifier of a config, with its checkpoint loaded."""
    model, cfg = built(config, file)
    return classifier_of(model, cfg, config, file)


def built(config: str, file: str) -> tuple[nn.Module, Config]:
    """The model of a config whose checkpoint is given, without the weights, and the config."""
    if not file:
        raise ValueError(f'{config} needs its checkpoint: {config}=work_dirs/.../iter_500.pth')
    cfg = load_config(parser('').parse_args([config]))
    return model_of(cfg), cfg


def model_of(cfg: Config) -> nn.Module:
    """The model of a config, without weights."""
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    cfg.model.pop('init_checkpoint', None)
    if cfg.model.get('pretrained'):
        cfg.model.pretrained = False
    return MODELS.build(cfg.model)


def classifier_of(model: nn.Module, cfg: Config, config: str, file: str) -> Named:
    """The network inside a classifier, with its checkpoint; images are prepared as in the config's test.

    Raises:
        ValueError: The model is not a classifier, or the weights do not fit.
        FileNotFoundError: The file does not exist.
    """
    if not hasattr(model, 'net'):
        raise ValueError(f'{config}: protocols measure classifiers, and this is a {type(model).__name__}')
    load(model.net, file)
    shown = model.data_preprocessor
    config_of = {'mean': tuple(shown.mean.flatten().tolist()), 'std': tuple(shown.std.flatten().tolist())}
    config_of |= tested(cfg, config)
    model.net.pretrained_cfg = {**(getattr(model.net, 'pretrained_cfg', None) or {}), **config_of}
    return model.net, f'{Path(config).stem} ({Path(file).name})', f'checkpoint {file}'


def tested(cfg: Config, config: str) -> dict[str, object]:
    """How a config scales and crops its test images; warns if timm has no equivalent."""
    from timm_stylenorm.classification.transforms import geometry
    from timm_stylenorm.errors import StyleNormWarning

    transforms = [part.get('transform') for part in tested_parts(cfg)]
    found = geometry(transforms[0]) if transforms else {}
    if found is None:
        text = f"{config}: images are scaled as timm does for this model, not by the config's transform {transforms[0]}"
        warnings.warn(text, StyleNormWarning, stacklevel=2)
    return found or {}
