"""What is asked of timm's private parts, or patched there, one place for each question."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import timm
import timm.models
from timm.models import DefaultCfg
from timm.models._features import FeatureGetterNet, FeatureHookNet
from timm.models._features_fx import FeatureGraphNet
from timm.models._registry import (
    _model_default_cfgs,
    _model_entrypoints,
    _model_has_pretrained,
    _model_pretrained_cfgs,
    _model_with_tags,
)
from timm.models.regnet import RegStage
from torch.optim import Optimizer

__all__ = [
    'HOOKS_OF_FORWARD',
    'FeatureGetterNet',
    'FeatureGraphNet',
    'FeatureHookNet',
    'RegStage',
    'architectures',
    'compiled_call_off',
    'copy_pretrained_cfgs',
    'create_model_places',
    'create_optimizer_places',
    'exchanged',
    'inner_optimizer',
    'name_within',
    'unwrapped',
]

# The attributes of torch's modules under which hooks of a forward stand
HOOKS_OF_FORWARD = (
    '_forward_hooks', '_forward_hooks_with_kwargs', '_forward_hooks_always_called', '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
)  # fmt: skip


def unwrapped(model: Any) -> Any:
    """The model within timm's feature extractors that leave it whole."""
    name = name_within(model)
    return model.get_submodule(name) if name else model


def name_within(model: Any) -> str:
    """The name of that model; '' where there is none."""
    for kind, name in ((FeatureGetterNet, 'model'), (FeatureHookNet, 'body')):
        if isinstance(model, kind) and name in dict(model.named_children()):
            return name
    return ''


def compiled_call_off(attributes: dict[str, Any]) -> None:
    """Let a module that was compiled in place (`module.compile()`) run as it is, given its `vars`."""
    if attributes.get('_compiled_call_impl') is not None:
        attributes['_compiled_call_impl'] = None


def architectures() -> Collection[str]:
    """All registered names, without tags."""
    return _model_entrypoints.keys()


def copy_pretrained_cfgs(base: str, name: str) -> DefaultCfg:
    """Give a registered name the pretrained cfgs of another, the default first.

    `register_model` would do it from `default_cfgs`, and take most of the time of an import: names must cost nothing.
    """
    cfgs: dict[str, Any] = {}
    own_names = _model_with_tags[name]
    for tagged in _model_with_tags[base]:
        source = _model_pretrained_cfgs[tagged]
        tag = tagged.partition('.')[2]
        own = f'{name}.{tag}' if tag else name
        cfg = object.__new__(type(source))
        object.__setattr__(cfg, '__dict__', {**source.__dict__, 'architecture': name})
        if not cfgs:  # the default
            _model_pretrained_cfgs[name] = cfg
            if cfg.has_weights:
                _model_has_pretrained.add(name)
        _model_pretrained_cfgs[own] = cfgs[tag] = cfg
        if cfg.has_weights:
            _model_has_pretrained.add(own)
        own_names.append(own)
    cfg_of_all: Any = DefaultCfg(deque(cfgs), cfgs, name in _model_has_pretrained)
    _model_default_cfgs[name] = cfg_of_all
    return cfg_of_all


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer whose hooks run in each step: `Lookahead` runs none of its own."""
    from timm.optim import Lookahead  # which `import timm` does not load

    return optimizer._base_optimizer if isinstance(optimizer, Lookahead) else optimizer


def create_model_places() -> list[Any]:
    """The modules under whose names scripts import `create_model`."""
    return [timm, timm.models, timm.models._factory]


def create_optimizer_places() -> list[Any]:
    """The modules under whose names scripts import `create_optimizer_v2`."""
    import timm.optim

    return [timm.optim, timm.optim._optim_factory]


@contextmanager
def exchanged(new: Mapping[tuple[Any, str], Any]) -> Iterator[None]:
    """Within, these attributes of modules have other values: (module, name) -> value."""
    old = {(module, name): getattr(module, name) for module, name in new}
    try:
        for (module, name), value in new.items():
            setattr(module, name, value)
        yield
    finally:
        for (module, name), value in old.items():
            setattr(module, name, value)
