"""Where style layers go: from a site's name to the modules of a model.

    convs             convolutions directly followed by a norm layer beside them; shortcut branches left out
    norms             those norm layers, for methods that replace them
    stem              the last feature level at stride 2 or less
    stage1 ... stageN the feature levels after the stem: a layer goes behind the last block of the stage
    anything else     a module's name, or a glob over the names ('layer[12].*.conv2')

Stages come from timm's `feature_info`, or from `layer1` ... `layer4` or `stages` (torchvision, mmseg).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import timm.layers
from timm.models._features import FeatureGetterNet
from timm.models._features_fx import FeatureGraphNet
from timm.models.regnet import RegStage
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .errors import unknown

NORMS = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    timm.layers.FrozenBatchNormAct2d,
    timm.layers.RmsNorm,
)
_SEQUENCES = (nn.Sequential, nn.ModuleList, RegStage)  # run their children one after the other
_SHORTCUTS = {'downsample', 'shortcut', 'skip', 'project'}
_SEVERAL_MAPS = {'HighResolutionModule', 'HRModule'}  # return a list, one map for each resolution


@dataclass(frozen=True)
class Site:
    """A place for a style layer.

    Attributes:
        label: 'stage1', or the module's name for sites that name many modules.
        name: Name of `module` in the model.
        module: The module whose output is restyled (for norms: that is replaced).
        channels: Channels of that output; None where they cannot be told.
    """

    label: str
    name: str
    module: nn.Module
    channels: int | None


def find_sites(model: nn.Module, names: str | Iterable[str]) -> list[Site]:
    """The places that the given site names mean in a model, in order, each module once.

    Raises:
        ValueError: A name that is neither a site nor a module of this model, that means nothing here, or a place that
            cannot hold a layer. The message says what exists.
    """
    if isinstance(model, fx.GraphModule | FeatureGraphNet):
        raise ValueError(
            'a traced graph has no modules to attach to: feature_cls="fx" does not work with style methods'
        )
    found: dict[str, Site] = {}
    for name in [names] if isinstance(names, str) else names:
        for site in _find(model, name):
            found.setdefault(site.name, site)
    if not found:
        raise ValueError(f'no site was named for {type(model).__name__}')
    return list(found.values())


def _find(model: nn.Module, name: str) -> list[Site]:
    if name in ('convs', 'norms'):
        pairs = list(_conv_norm_pairs(model))
        if not pairs:
            raise ValueError(
                f'site {name!r}: {type(model).__name__} has no convolution directly followed by a norm layer; '
                'name a stage or a module instead'
            )
        index = ('convs', 'norms').index(name)
        return [Site(pair[index][0], *pair[index], out_channels(pair[0][1])) for pair in pairs]
    levels = _levels(model)
    if name in levels:
        path, channels = levels[name]
        return [_place(model, name, path, channels)]
    modules = dict(model.named_modules())
    paths = [name] if name in modules else fnmatch.filter(modules, name)
    if not paths or name == '':
        message = unknown(
            f'site of {type(model).__name__}:', name, ['convs', 'norms', *levels, 'a module name or glob']
        )
        raise ValueError(message)
    return [_place(model, path, path, None) for path in paths]


def _place(model: nn.Module, label: str, path: str, channels: int | None) -> Site:
    """The site behind the last block of a module."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f'site {label!r}: {type(model).__name__} has no module {path!r} (a feature extractor ends before it); '
            "name the sites that are left, as in sites=('stage1', 'stage2')"
        ) from None
    tokens = any(module.children()) and not any(isinstance(m, _ConvNd) for m in module.modules())
    if isinstance(module, nn.Linear) or (tokens and not isinstance(module, NORMS)):
        raise ValueError(
            f'site {label!r}: {path!r} ({type(module).__name__}) has no convolution; {type(model).__name__} seems to '
            'pass tokens there, and style layers take maps (N, C, H, W)'
        )
    while isinstance(module, _SEQUENCES) and len(list(module.children())):
        child = list(module._modules)[-1]
        path, module = f'{path}.{child}', module._modules[child]  # type: ignore[assignment]
    if isinstance(module, NORMS):
        raise ValueError(
            f'site {label!r}: {path!r} is a norm layer ({type(module).__name__}), and SyncBatchNorm converters replace '
            'those together with what is attached to them; name a convolution or a block'
        )
    if type(module).__name__ in _SEVERAL_MAPS:
        raise ValueError(
            f'site {label!r}: {path!r} ({type(module).__name__}) returns several maps, not one; name a module inside it'
        )
    return Site(label, path, module, channels or out_channels(module))


def _levels(model: nn.Module) -> dict[str, tuple[str, int | None]]:
    """'stem', 'stage1', ... -> name of the module that ends it, and its channels where they are known."""
    wrapped = getattr(model, 'model', None)
    if isinstance(model, FeatureGetterNet) and isinstance(wrapped, nn.Module):
        return {k: (f'model.{path}', c) for k, (path, c) in _levels(wrapped).items()}
    info = getattr(model, 'feature_info', None)
    if info is None:
        return _plain_levels(model)
    entries = info if isinstance(info, Sequence) else info.info
    stem = [e for e in entries if e['reduction'] <= 2]
    stages = [e for e in entries if e['reduction'] > 2]
    named = {'stem': stem[-1]} if stem else {}
    named.update({f'stage{i}': e for i, e in enumerate(stages, 1)})
    modules = dict(model.named_modules())
    flat = {path: path.replace('.', '_') for path in (e['module'] for e in entries)}  # as FeatureListNet renames
    return {
        k: (
            flat[e['module']] if e['module'] not in modules and flat[e['module']] in modules else e['module'],
            e['num_chs'],
        )
        for k, e in named.items()
    }


def _plain_levels(model: nn.Module) -> dict[str, tuple[str, int | None]]:
    """The same for models without `feature_info`."""
    children = dict(model.named_children())
    stages = [k for k in (f'layer{i}' for i in range(1, 5)) if k in children and 'layer5' not in children]
    if not stages and isinstance(children.get('stages'), nn.ModuleList | nn.Sequential):
        stages = [f'stages.{i}' for i in range(len(children['stages']))]  # type: ignore[arg-type]
    return {f'stage{i}': (path, None) for i, path in enumerate(stages, 1)}


def _main_path(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """named_modules without shortcut branches and without style layers."""
    for name, child in module.named_modules():
        if not ({*_SHORTCUTS, 'style'} & set(name.split('.'))):
            yield name, child


def _conv_norm_pairs(model: nn.Module) -> Iterator[tuple[tuple[str, nn.Module], tuple[str, nn.Module]]]:
    for prefix, parent in _main_path(model):
        children = [(k, m) for k, m in parent.named_children() if not isinstance(m, nn.Identity)]
        for (name, child), (norm_name, norm) in pairwise(children):
            if name in _SHORTCUTS:
                continue
            while isinstance(child, nn.Sequential) and len(child):
                last = list(child._modules)[-1]
                name, child = f'{name}.{last}', child[-1]
            if isinstance(child, _ConvNd) and isinstance(norm, NORMS):
                dot = f'{prefix}.' if prefix else ''
                yield (dot + name, child), (dot + norm_name, norm)


def out_channels(module: nn.Module) -> int | None:
    """Channels of a module's output: those of the last convolution or norm on its main path; None without any."""
    for _, child in reversed(list(_main_path(module))):
        if isinstance(child, _ConvNd):
            return child.out_channels
        if isinstance(child, NORMS):
            return getattr(child, 'num_features', None) or getattr(child, 'num_channels', None)
    return None
