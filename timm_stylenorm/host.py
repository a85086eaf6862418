"""What we patch in timm, and what we use of its private parts, each in one place.

If timm is not installed, nothing is an instance of its classes.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable

from torch import nn
from torch.optim import Optimizer

from .installed import check_version, is_installed, needing, optional
from .patches import Patch
from .torch_host import BEFORE_2_6

__all__ = [
    'HAS_TIMM',
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
    'architectures',
    'convert_sync_batchnorm',
    'copy_pretrained_cfgs',
    'inner_optimizer',
    'name_within',
    'safety_patches',
    'script_patches',
    'unwrapped',
]

HAS_TIMM = is_installed('timm')
if HAS_TIMM:
    with needing('timm'):
        import timm

    check_version('timm', timm.__version__)

BatchNormAct2d, FrozenBatchNormAct2d, convert_sync_batchnorm, LayerNorm, LayerNorm2d, RmsNorm = (
    optional(f'timm.layers:{name}')
    for name in (
        'BatchNormAct2d', 'FrozenBatchNormAct2d', 'convert_sync_batchnorm', 'LayerNorm', 'LayerNorm2d', 'RmsNorm',
    )
)  # fmt: skip
FeatureGetterNet, FeatureHookNet = (
    optional(f'timm.models._features:{k}') for k in ('FeatureGetterNet', 'FeatureHookNet')
)
FeatureGraphNet = optional('timm.models._features_fx:FeatureGraphNet')
RegStage = optional('timm.models.regnet:RegStage')
FrozenBatchNorm2d = optional('torchvision.ops:FrozenBatchNorm2d')


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside one of timm's feature extractors that keep it whole; any other model itself."""
    name = name_within(model)
    return model.get_submodule(name) if name else model


def name_within(model: object) -> str:
    """The name of the child that is the model inside such a feature extractor; '' for any other model."""
    for kind, name in ((FeatureGetterNet, 'model'), (FeatureHookNet, 'body')):
        if isinstance(model, kind) and name in dict(model.named_children()):
            return name
    return ''


def architectures() -> Collection[str]:
    """All architecture names in timm's registry, without tags."""
    from timm.models._registry import _model_entrypoints

    return _model_entrypoints.keys()


@functools.cache
def _cfgs_of_registry() -> tuple[type, dict, dict, set[str], dict]:
    """timm's class for all cfgs of a name, and its registries of them; cached, since our import needs them often."""
    from timm.models import DefaultCfg
    from timm.models._registry import (
        _model_default_cfgs,
        _model_has_pretrained,
        _model_pretrained_cfgs,
        _model_with_tags,
    )

    return DefaultCfg, _model_default_cfgs, _model_pretrained_cfgs, _model_has_pretrained, _model_with_tags


def copy_pretrained_cfgs(base: str, name: str) -> object:
    """Give a registered name the pretrained cfgs of another name, the default first.

    `register_model` could do it from `default_cfgs`, but would take most of the time of our import.
    """
    kind, default_cfgs, pretrained_cfgs, has_pretrained, with_tags = _cfgs_of_registry()
    cfgs: dict[str, object] = {}
    own_names = with_tags[name]
    for tagged in with_tags[base]:
        source = pretrained_cfgs[tagged]
        tag = tagged.partition('.')[2]
        own = f'{name}.{tag}' if tag else name
        cfg = object.__new__(type(source))
        object.__setattr__(cfg, '__dict__', {**source.__dict__, 'architecture': name})
        if not cfgs:  # the default
            pretrained_cfgs[name] = cfg
            if tagged in has_pretrained:
                has_pretrained.add(name)
        pretrained_cfgs[own] = cfgs[tag] = cfg
        if tagged in has_pretrained:
            has_pretrained.add(own)
        own_names.append(own)
    default_cfgs[name] = kind(deque(cfgs), cfgs, name in has_pretrained)
    return default_cfgs[name]


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer whose hooks run in each step: `Lookahead` runs no hooks of its own."""
    from timm.optim import Lookahead  # which `import timm` does not load

    return optimizer._base_optimizer if isinstance(optimizer, Lookahead) else optimizer


def group_with_hosts(group_with_matcher: Callable[..., dict]) -> Callable[..., dict]:
    """timm's `group_with_matcher`, in which a style layer belongs to the group of the module that it follows.

    A family's patterns match names of blocks; without this, 'stages.1.style.snr.weight' would be grouped with the head.
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


# Patches that are active from the import of this package on
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
    """What `launch` replaces to make kills, full disks and second runs harmless, keyed by the last part of its name."""
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
