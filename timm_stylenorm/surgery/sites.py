"""Where style layers go: from a site's name to the modules of a model.

    convs             convolutions directly followed by a norm layer of the same module; shortcut branches left out
    norms             those norm layers, for methods that replace them
    batch_norms       all batch norms of maps, shortcut branches too, for methods that replace them
    stem              the last feature level at stride 2 or less
    stem.conv         the last convolution before the stages; its norm layer follows
    stem.norm         that norm layer
    stem.pool         the max pooling after it; nothing in a model without one
    blocks            every block of every stage
    blocks.residual   in every block with a residual sum: what its main branch adds, after the last norm layer, ...
    blocks.identity   ... what its shortcut adds, ...
    blocks.pre        ... the block's input on the main branch alone, ...
    blocks.sum        ... and the sum, before the activation that follows; see `residual`
    stage1 ... stageN the feature levels after the stem: a layer goes after the last block of the stage
    stage1.blocks     every block of the stage
    stage1.residual   as blocks.residual, in every block of the stage; so are stage1.identity, stage1.pre, and
    stage1.blocks.sum as blocks.sum
    stage1.norm1      the first norm layer of every block of the stage
    stage1.sum        the residual sum at the end of the stage, before its activation
    input             what the model is given: its images
    anything else     a module's name, or a glob over the names ('layer[12].*.conv2'); of a block with one of the parts
                      of a residual sum, too ('layer1.0.residual', 'layer[12].*.sum')

Stages come from timm's `feature_info`; from `layer1` ... `layer4`, `stages` or `layers` (torchvision, mmseg); otherwise
a probe finds where maps become smaller (mmseg's MobileNet, UNet, FastSCNN and others).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import replace

from torch import fx, nn

from ..errors import no_site
from ..host import FeatureGraphNet
from ..torch_host import last_child
from .meta import first_conv
from .residual import residual_sites
from .site import Site
from .structure import (
    NORMS,
    SEVERAL_MAPS,
    Named,
    batch_norms,
    blocks_of,
    conv_norm_pairs,
    is_sequence,
    layout_of,
    levels_of,
    main_path,
    out_channels,
    stem_of,
)
from .sums import PARTS as RESIDUAL


def find_sites(model: nn.Module, names: str | Iterable[str], tokens: bool = False) -> list[Site]:
    """The sites that these names refer to in a model, in order, each module once.

    Args:
        model: A module.
        names: Site names, see the top of this file.
        tokens: Whether the caller knows where the channels are, for models that do not say it.

    Raises:
        ValueError: A name is neither a site nor a module of this model, or refers to nothing in it, or a place cannot
            hold a layer. The message says what exists.
    """
    if isinstance(model, fx.GraphModule | FeatureGraphNet):
        raise ValueError(
            'a traced graph has no modules to attach to: feature_cls="fx" does not work with style methods'
        )
    found: dict[tuple[str, str], Site] = {}
    for name in [names] if isinstance(names, str) else names:
        for site in _find(model, name, tokens):
            found.setdefault((site.name, site.where), replace(site, asked=name))
    if not found:
        asked = [names] if isinstance(names, str) else list(names)
        if not asked:
            raise ValueError(f'no site was named for {type(model).__name__}')
        raise ValueError(no_site(type(model).__name__, asked[0], site_names(model)))
    return list(found.values())


def sites_within(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The site names, except those of stages that the model does not reach, such as stages after the end of a feature
    extractor; all names if the model has no stages."""
    names, levels = list(names), levels_of(model)
    own = {*levels, *(name for name, _ in model.named_children())}  # HRNet's stages are modules, but not levels
    past = {name for name in names if re.match(r'stage\d', name) and name.partition('.')[0] not in own}
    reached = any(level.startswith('stage') for level in levels)
    return [name for name in names if name not in past] if reached else names


def site_names(model: nn.Module) -> list[str]:
    """The sites that a model has, without the names of its modules."""
    parts = [*_PARTS, 'blocks.sum']
    names = [*_KINDS, *levels_of(model), *(f'{stage}.{part}' for stage in blocks_of(model) for part in parts)]
    return [name for name in names if _has(model, name)]


def _has(model: nn.Module, name: str) -> bool:
    try:
        return bool(_find(model, name))
    except ValueError:  # for instance, there is no norm in the stem
        return False


def _find(model: nn.Module, name: str, tokens: bool = False) -> list[Site]:
    if name in _KINDS:
        return _KINDS[name](model, name)
    levels = levels_of(model)
    stage, _, part = name.partition('.')
    if stage in levels and part in _PARTS:
        blocks = blocks_of(model).get(stage)
        if not blocks:
            raise ValueError(f'site {name!r}: {stage} of {type(model).__name__} does not consist of blocks')
        return _PARTS[part](model, name, blocks)
    if name not in dict(model.named_modules()) and name.rpartition('.')[2] in RESIDUAL:
        return _residual_parts(model, name)
    if name in levels:
        path, channels = levels[name]
        blocks = blocks_of(model).get(name)
        if blocks and isinstance(_last_of(path, model.get_submodule(path))[1], NORMS):  # DenseNet ends with a norm
            path = blocks[-1][0].rpartition('.')[0]
        return [_place(model, name, path, channels, tokens)]
    modules = dict(model.named_modules())
    paths = [name] if name in modules else fnmatch.filter(modules, name)
    if not paths or name == '':
        raise ValueError(no_site(type(model).__name__, name, site_names(model)))
    return [_place(model, path, path, None, tokens) for path in paths]


def _norm_site(norm: Named) -> Site:
    return Site(norm[0], *norm, out_channels(norm[1]), 'replace')


def _pairs(model: nn.Module, name: str) -> list[Site]:
    pairs = list(conv_norm_pairs(model))
    if not pairs:
        raise ValueError(
            f'site {name!r}: {type(model).__name__} has no convolution directly followed by a norm layer; '
            'name a stage or a module instead'
        )
    if name == 'norms':
        return [_norm_site(norm) for _, norm in pairs]
    return [Site(conv[0], *conv, out_channels(conv[1])) for conv, _ in pairs]


def _batch_norms(model: nn.Module, name: str) -> list[Site]:
    norms = list(batch_norms(model))
    if not norms:
        raise ValueError(f'site {name!r}: {type(model).__name__} has no batch norm')
    return [_norm_site(norm) for norm in norms]


def _stem(model: nn.Module, name: str) -> list[Site]:
    conv, norm, pool = stem_of(model)
    wanted = {'stem.conv': conv, 'stem.norm': norm, 'stem.pool': pool}[name]
    if conv is None or (wanted is None and name == 'stem.norm'):
        raise ValueError(
            f'site {name!r}: {type(model).__name__} has no {"norm" if conv else "convolution"} before its stages'
        )
    if wanted is None:
        return []
    return [Site(name, *wanted, out_channels(conv[1]), 'replace' if name == 'stem.norm' else 'after')]


def _all_blocks(model: nn.Module, name: str) -> list[Site]:
    blocks = [block for stage in blocks_of(model).values() for block in stage]
    if not blocks:
        raise ValueError(f'site {name!r}: the stages of {type(model).__name__} do not consist of blocks')
    return _after_blocks(model, name, blocks)


def _after_blocks(model: nn.Module, name: str, blocks: list[Named]) -> list[Site]:
    return [_place(model, path, path, None) for path, _ in blocks]


def _first_norms(model: nn.Module, name: str, blocks: list[Named]) -> list[Site]:
    sites = []
    for path, block in blocks:
        norm = next(((k, m) for k, m in main_path(block) if isinstance(m, NORMS)), None)
        if norm is None:
            raise ValueError(f'site {name!r}: block {path!r} has no norm layer')
        sites.append(_norm_site((f'{path}.{norm[0]}', norm[1])))
    return sites


def _residual_sum(model: nn.Module, name: str, blocks: list[Named]) -> list[Site]:
    path, block = blocks[-1]
    children = dict(block.named_children())
    convs = [k for k in ('conv1', 'conv2', 'conv3') if k in children]
    channels = out_channels(block)
    act = f'act{len(convs)}'
    if act in children and len(convs) > 1:  # timm: an activation of its own
        return [Site(name, f'{path}.{act}', children[act], channels, 'before')]
    if 'relu' in children and len(convs) > 1:  # torchvision, mmseg: one module after each convolution and the sum
        kind = type(children['relu'])
        bare = [
            k for k in convs if not isinstance(_last_of(k, children[k])[1], kind)
        ]  # of video: (conv, norm, act), (conv, norm)
        return [Site(name, f'{path}.relu', children['relu'], channels, 'before', block, len(bare))]
    raise ValueError(
        f'site {name!r}: {path!r} ({type(block).__name__}) has no activation after a residual sum; '
        f'{name.partition(".")[0]!r} means after the block'
    )


def _residual_parts(model: nn.Module, name: str, blocks: list[Named] | None = None) -> list[Site]:
    """The sites of a part of residual sums; the name says in which blocks if `blocks` is None."""
    of, _, part = name.rpartition('.')
    every = {path: stage for stage, found in blocks_of(model).items() for path, _ in found}
    if blocks is not None:
        chosen = [path for path, _ in blocks]
    elif of == 'blocks':
        chosen = list(every)
    else:
        chosen = [path for path, stage in every.items() if of == f'{stage}.blocks'] or fnmatch.filter(every, of)
    if not every:
        raise ValueError(f'site {name!r}: the stages of {type(model).__name__} do not consist of blocks')
    if not chosen:
        raise ValueError(no_site(type(model).__name__, name, site_names(model)))
    return residual_sites(model, name, part, chosen)


def _input(model: nn.Module, name: str) -> list[Site]:
    conv = first_conv(model)
    return [Site(name, '', model, conv.in_channels if conv else None, 'before')]


_KINDS = {
    'convs': _pairs,
    'norms': _pairs,
    'batch_norms': _batch_norms,
    'stem.conv': _stem,
    'stem.norm': _stem,
    'stem.pool': _stem,
    'blocks': _all_blocks,
    **{f'blocks.{part}': _residual_parts for part in RESIDUAL},
    'input': _input,
}
_PARTS = {
    'blocks': _after_blocks,
    'norm1': _first_norms,
    'sum': _residual_sum,
    **{part: _residual_parts for part in RESIDUAL if part != 'sum'},
}


def _last_of(path: str, module: nn.Module) -> Named:
    """The path and the module that runs last in nested sequences."""
    while is_sequence(module) and len(list(module.children())):
        last, module = last_child(module)
        path = f'{path}.{last}'
    return path, module


def _place(model: nn.Module, label: str, path: str, channels: int | None, tokens: bool = False) -> Site:
    """The site after the last block of a module, or in place of a norm layer."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f'site {label!r}: {type(model).__name__} has no module {path!r} (a feature extractor ends before it, and '
            "stages of HRNet are no modules); name others, as in sites=('stage1', 'stage2'), or modules"
        ) from None
    whole = module
    path, module = _last_of(path, module)
    if type(module).__name__ in SEVERAL_MAPS and is_sequence(getattr(module, 'blocks', None)):
        return _place(model, label, f'{path}.blocks', channels, tokens)
    if isinstance(module, NORMS):
        return Site(label, path, module, channels or out_channels(module), 'replace')
    if type(module).__name__ in SEVERAL_MAPS:
        raise ValueError(
            f'site {label!r}: {path!r} ({type(module).__name__}) returns several maps, not one; name a module inside it'
        )
    leaf = not any(k != 'style' for k, _ in module.named_children())
    layout = (1, 0) if leaf else layout_of(model)
    convolves = leaf or first_conv(module) is not None
    if layout == (1, 0) and not tokens and (isinstance(module, nn.Linear) or not convolves):
        raise ValueError(
            f'site {label!r}: {path!r} ({type(module).__name__}) has no convolution; {type(model).__name__} seems to '
            'pass tokens there; if it does, say where their channels are: channel_dim=-1'
        )
    found = channels or out_channels(module) or out_channels(whole)  # activations, pooling, dropout do not tell
    return Site(label, path, module, found, channel_dim=layout[0], prefix_tokens=layout[1], promised=channels)
