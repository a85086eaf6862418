"""What is patched in timm, and what is asked of its private parts and of torch's, one place for each question."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .installed import check_version, is_installed, optional
from .patches import Patch
from .trust import weights_only_is_safe

__all__ = [
    'HAS_TIMM',
    'HOOKS_OF_FORWARD',
    'BatchNormAct2d',
    'FeatureGetterNet',
    'FeatureGraphNet',
    'FeatureHookNet',
    'FrozenBatchNorm2d',
    'FrozenBatchNormAct2d',
    'LayerNorm',
    'LayerNorm2d',
    'RegStage',
    'RmsNorm',
    'add_load_pre_hook',
    'add_step_hook',
    'allowing',
    'architectures',
    'compiled_call_off',
    'convert_sync_batchnorm',
    'copy_pretrained_cfgs',
    'has_load_pre_hook',
    'inner_optimizer',
    'is_sharded',
    'last_child',
    'name_within',
    'raise_recompile_limit',
    'remove_forward_hook',
    'script_patches',
    'unwrapped',
    'within_compiled',
]

BEFORE_2_6 = not weights_only_is_safe()
HAS_TIMM = is_installed('timm')
if HAS_TIMM:
    import timm

    check_version('timm', timm.__version__)

BatchNormAct2d, FrozenBatchNormAct2d, convert_sync_batchnorm, LayerNorm, LayerNorm2d, RmsNorm = (
    optional(f'timm.layers:{name}')
    for name in (
        'BatchNormAct2d', 'FrozenBatchNormAct2d', 'convert_sync_batchnorm', 'LayerNorm', 'LayerNorm2d', 'RmsNorm',
    )
)  # fmt: skip
FeatureGetterNet, FeatureHookNet = (optional(f'timm.models._features:{k}') for k in ('FeatureGetterNet', 'FeatureHookNet'))
FeatureGraphNet = optional('timm.models._features_fx:FeatureGraphNet')
RegStage = optional('timm.models.regnet:RegStage')
FrozenBatchNorm2d = optional('torchvision.ops:FrozenBatchNorm2d')

# The attributes of torch's modules under which hooks of a forward stand
HOOKS_OF_FORWARD = (
    '_forward_hooks', '_forward_hooks_with_kwargs', '_forward_hooks_always_called', '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
)  # fmt: skip


def unwrapped(model: Any) -> Any:
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
    config: Any = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'  # before torch 2.6
    setattr(config, name, max(getattr(config, name), at_least))


def is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` (FSDP2) has been applied to a module; torch 2.6 moved its class."""
    places = (sys.modules.get(f'torch.distributed.{name}') for name in ('fsdp', '_composable.fsdp'))
    return any(isinstance(module, vars(place).get('FSDPModule', ())) for place in places if place)


def allowing(known: Sequence[Any]) -> AbstractContextManager[object]:
    """A context in which `torch.load(weights_only=True)` also takes these classes and functions.

    Before torch 2.6, which lets them have other names, nothing but tensors and plain data.
    """
    return torch.serialization.safe_globals(list(known)) if not BEFORE_2_6 else nullcontext()


def last_child(module: nn.Module) -> tuple[str, nn.Module]:
    """The last child that a module was given and its name, also where it has another name before."""
    return next((name, child) for name, child in reversed(module._modules.items()) if child is not None)


def remove_forward_hook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Take a function off a module, also of a copy of the module with which it was registered."""
    for key in [k for k, own in module._forward_hooks.items() if own is hook]:
        del module._forward_hooks[key]


def add_load_pre_hook(module: nn.Module, hook: Callable[..., object]) -> None:
    """`register_load_state_dict_pre_hook`, which is public since torch 2.5."""
    module._register_load_state_dict_pre_hook(hook, with_module=True)


def has_load_pre_hook(module: nn.Module, hook: Callable[..., object]) -> bool:
    """Whether `add_load_pre_hook` was given this function."""
    return any(getattr(own, 'hook', own) is hook for own in module._load_state_dict_pre_hooks.values())


def architectures() -> Collection[str]:
    """All registered names, without tags."""
    from timm.models._registry import _model_entrypoints

    return _model_entrypoints.keys()


def copy_pretrained_cfgs(base: str, name: str) -> Any:
    """Give a registered name the pretrained cfgs of another, the default first.

    `register_model` would do it from `default_cfgs`, and take most of the time of an import: names must cost nothing.
    """
    from timm.models import DefaultCfg
    from timm.models._registry import (
        _model_default_cfgs,
        _model_has_pretrained,
        _model_pretrained_cfgs,
        _model_with_tags,
    )

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


def add_step_hook(optimizer: Optimizer, hook: Callable[[Optimizer, Any, Any], None]) -> None:
    """`register_step_post_hook` for a function that may run twice after a step.

    The compiler of torch 2.1 takes all such hooks off all optimizers; that of 2.14 does not.
    """
    optimizer.register_step_post_hook(hook)
    if not BEFORE_2_6:
        return
    step = optimizer.step

    @functools.wraps(step)
    def step_and_hook(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        hook(optimizer, args, kwargs)
        return result

    optimizer.step = step_and_hook  # type: ignore[method-assign]


def group_with_hosts(group_with_matcher: Callable[..., Any]) -> Callable[..., Any]:
    """timm's `group_with_matcher`, in which a style layer belongs to the group of what it follows.

    A family's patterns match names of blocks; 'stages.1.style.snr.weight' would go to the last group, that of the head.
    """

    @functools.wraps(group_with_matcher)
    def group(
        named_objects: Iterable[Any], group_matcher: Any, return_values: bool = False, reverse: bool = False
    ) -> Any:
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
        needed=HAS_TIMM,
    ),
    Patch(
        what=('timm.models._helpers._torch_load', 'timm.models._hub._torch_load'),
        why='before torch 2.6, reading a file of others can run code in it, also with `weights_only=True`',
        since='timm 1.0.26',
        until='timm 1.0.31',
        by='timm_stylenorm.trust.refusing',
        wraps=True,
        needed=HAS_TIMM and BEFORE_2_6,
    ),
    Patch(
        what=('timm.models._builder.load_state_dict_from_url',),
        why='the same for downloads, which torch 2.1 can only read without `weights_only=True`',
        since='timm 1.0.26',
        until='timm 1.0.31',
        by='timm_stylenorm.trust.load_url',
        needed=HAS_TIMM and BEFORE_2_6,
    ),
)


def script_patches() -> tuple[Patch, ...]:
    """What `launch` replaces while a script of timm runs; `import timm` does not load all of it."""
    import timm.optim
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
            what=tuple(f'{place}.{name}' for name, kind in tasks.items() for place in ('timm.task', kind.__module__)),
            why='a script trains by one of them, which knows neither the losses of a style nor recipes',
            since='timm 1.0.26',
            until='timm 1.0.31',
        ),
    )
