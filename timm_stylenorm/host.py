"""What is patched in timm, and what is asked of its private parts and of torch's, one place for each question."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from timm.models import DefaultCfg, PretrainedCfg
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
from torch import nn
from torch.optim import Optimizer

from .patches import Patch

__all__ = [
    'HOOKS_OF_FORWARD',
    'FeatureGetterNet',
    'FeatureGraphNet',
    'FeatureHookNet',
    'RegStage',
    'architectures',
    'compiled_call_off',
    'copy_pretrained_cfgs',
    'has_load_pre_hook',
    'inner_optimizer',
    'last_child',
    'name_within',
    'raise_recompile_limit',
    'remove_forward_hook',
    'safety_patches',
    'script_patches',
    'unwrapped',
    'within_compiled',
]

# The attributes of torch's modules under which hooks of a forward stand
HOOKS_OF_FORWARD = (
    '_forward_hooks', '_forward_hooks_with_kwargs', '_forward_hooks_always_called', '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
)  # fmt: skip


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within timm's feature extractors that leave it whole."""
    name = name_within(model)
    return model.get_submodule(name) if name else model


def name_within(model: object) -> str:
    """The name of that model; '' where there is none."""
    for kind, name in ((FeatureGetterNet, 'model'), (FeatureHookNet, 'body')):
        if isinstance(model, kind) and name in dict(model.named_children()):
            return name
    return ''


def compiled_call_off(attributes: dict[str, object]) -> None:
    """Let a module that was compiled in place (`module.compile()`) run as it is, given its `vars`."""
    if attributes.get('_compiled_call_impl') is not None:
        attributes['_compiled_call_impl'] = None


def within_compiled(model: nn.Module) -> nn.Module | None:
    """The model that `torch.compile` has wrapped; None where it has not."""
    return getattr(model, '_orig_mod', None)


def raise_recompile_limit(at_least: int) -> None:
    """Let `torch.compile` make so many graphs of one piece of code."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, at_least)


def last_child(module: nn.Module) -> tuple[str, nn.Module]:
    """The last child that a module was given and its name, also where it has another name before."""
    return next((name, child) for name, child in reversed(module._modules.items()) if child is not None)


def remove_forward_hook(module: nn.Module, hook: Callable[..., object]) -> None:
    """Take a function off a module, also of a copy of the module with which it was registered."""
    for key in [k for k, own in module._forward_hooks.items() if own is hook]:
        del module._forward_hooks[key]


def has_load_pre_hook(module: nn.Module, hook: Callable[..., object]) -> bool:
    """Whether `register_load_state_dict_pre_hook` was given this function."""
    return any(getattr(own, 'hook', own) is hook for own in module._load_state_dict_pre_hooks.values())


def architectures() -> Collection[str]:
    """All registered names, without tags."""
    return _model_entrypoints.keys()


def copy_pretrained_cfgs(base: str, name: str) -> DefaultCfg:
    """Give a registered name the pretrained cfgs of another, the default first.

    `register_model` would do it from `default_cfgs`, and take most of the time of an import: names must cost nothing.
    """
    cfgs: dict[str, PretrainedCfg] = {}
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


def group_with_hosts(group_with_matcher: Callable[..., dict]) -> Callable[..., dict]:
    """timm's `group_with_matcher`, in which a style layer belongs to the group of what it follows.

    A family's patterns match names of blocks; 'stages.1.style.snr.weight' would go to the last group, that of the head.
    """

    @functools.wraps(group_with_matcher)
    def group(
        named_objects: Iterable[tuple[str, object]],
        group_matcher: dict | Callable,
        return_values: bool = False,
        reverse: bool = False,
    ) -> dict:
        named = list(named_objects)
        plain = [name for name, _ in named if '.style.' not in name]
        hosts = {}
        for name, _ in named:
            place = name.partition('.style.')[0]
            inside = [other for other in plain if other.startswith(f'{place}.')] if place != name else []
            hosts[name] = inside[-1] if inside else name
        pairs = [(hosts[name], value if return_values else name) for name, value in named]
        if return_values or not reverse:
            return group_with_matcher(pairs, group_matcher, True, reverse)
        groups = group_with_matcher(pairs, group_matcher, True)
        return {name: number for number, names in groups.items() for name in names}

    return group


# What holds from the import of this package on
PATCHES = (
    Patch(
        what=('timm.models._manipulate.group_with_matcher',),
        why='layer-wise learning rates take the layers that follow a stage for a part of the head',
        since='timm 1.0.26',
        until='timm 1.0.31',
        by='timm_stylenorm.host.group_with_hosts',
        wraps=True,
    ),
)


def script_patches() -> tuple[Patch, ...]:
    """What `launch` replaces while a script of timm runs; `import timm` does not load all of it."""
    import timm.optim
    import timm.scheduler
    import timm.task

    base = timm.task.TrainingTask
    kinds = {name: kind for name, kind in vars(timm.task).items() if isinstance(kind, type) and kind is not base}
    tasks = {name: kind for name, kind in kinds.items() if issubclass(kind, base)}
    return (
        Patch(
            what=('timm.create_model', 'timm.models.create_model', 'timm.models._factory.create_model'),
            why='a script builds its model by it, and a style must be there before optimizer and EMA',
            since='timm 1.0.26',
            until='timm 1.0.31',
        ),
        Patch(
            what=('timm.optim.create_optimizer_v2', 'timm.optim._optim_factory.create_optimizer_v2'),
            why='a script builds its optimizer by it, and gates need a group of their own',
            since='timm 1.0.26',
            until='timm 1.0.31',
        ),
        Patch(
            what=(
                'timm.scheduler.create_scheduler_v2',
                'timm.scheduler.scheduler_factory.create_scheduler_v2',
            ),
            why='a recipe may follow the course of training, which a script tells its scheduler only',
            since='timm 1.0.26',
            until='timm 1.0.31',
        ),
        Patch(
            what=tuple(f'{place}.{name}' for name, kind in tasks.items() for place in ('timm.task', kind.__module__)),
            why='a script trains by one of them, which knows neither the losses of a style nor recipes',
            since='timm 1.0.26',
            until='timm 1.0.31',
        ),
    )


def safety_patches() -> dict[str, Patch]:
    """What `launch` replaces so that kills, full disks and second runs do no harm, by the last part of its name."""
    why = {
        '__init__': 'two runs in one folder replace the checkpoints of each other',
        '_save': 'a file is written in place, under a name that two runs share; torch does not say that a disk is full',
        '_replace': 'a file is removed before the next takes its name',
        '_duplicate': 'likewise, and copied in place where there are no links',
    }
    place = 'timm.utils.checkpoint_saver.CheckpointSaver'
    what = {f'{place}.{name}': text for name, text in why.items()}
    what['timm.data.loader._worker_init'] = 'workers may outlive a training that is killed'
    return {
        name.rpartition('.')[2]: Patch(what=(name,), why=text, since='timm 1.0.26', until='timm 1.0.31')
        for name, text in what.items()
    }
