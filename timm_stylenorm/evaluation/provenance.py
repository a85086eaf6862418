"""What a score was measured on and with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ..surgery.companions import training_only_keys
from .images import Shown


def told_transform(show: Shown) -> str:
    """How images are prepared, in words."""
    steps = getattr(show.resize, 'transforms', ())
    how = ', '.join(str(step) for step in steps) or 'files as they are'
    return f'{how}; mean {_short(show.mean)}, deviation {_short(show.std)}'


def _short(values: Sequence[float]) -> str:
    return '(' + ', '.join(f'{value:.4g}' for value in values) + ')'


def name_of(model: nn.Module) -> str:
    """timm's name of a model with its tag, or the name of its class."""
    config = getattr(model, 'pretrained_cfg', None) or {}
    name, tag = config.get('architecture'), config.get('tag')
    return f'{name}.{tag}' if name and tag else name or type(model).__name__


def weight_hash(model: nn.Module) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a model's tensors and their names; tensors that only training
    needs, which a file may lack, are left out."""
    digest, state = hashlib.sha256(), model.state_dict()
    for key, value in sorted((key, state[key]) for key in state.keys() - training_only_keys(model)):
        if not isinstance(value, Tensor):  # an extra state
            digest.update(f'{key} {value!r}'.encode())
            continue
        digest.update(f'{key} {tuple(value.shape)} {value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def structure(model: nn.Module) -> str:
    """A digest of what a model is beside its tensors: its modules, with their attributes that are numbers or words."""
    facts = []
    for name, module in model.named_modules():
        public = {key: value for key, value in vars(module).items() if key != 'training' and not key.startswith('_')}
        own = {key: repr(value) for key, value in public.items() if _is_plain(value)}
        facts.append((name, type(module).__qualname__, module.extra_repr(), own))
    return digest(facts)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def digest(content: object) -> str:
    """A digest of 16 hexadecimal digits of an object that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the packages that compute a score."""
    found = {}
    for package in ('stylenorm', 'torch', 'timm', 'torchvision', 'pillow', 'imagecorruptions-imaug', 'foolbox'):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, 'timm': timm.__version__, 'torch': torch.__version__}


def config_of(model: nn.Module) -> dict[str, object]:
    """What timm's results files say about a model: millions of parameters, and how its images are resized."""
    config = resolve_model_data_config(model)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return {
        'param_count': f'{millions:.2f}',
        'img_size': config['input_size'][-1],
        'crop_pct': config['crop_pct'],
        'interpolation': config['interpolation'],
    }
