"""What the module tree of a model says about it: stages, blocks, pairs of convolution and norm, layout of the maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _MaxPoolNd

from ..host import FrozenBatchNorm2d, FrozenBatchNormAct2d, RegStage, RmsNorm, name_within, unwrapped
from ..layers import NormLayer
from ..layers.norms import is_frozen
from ..torch_host import last_child
from .attachment import replaces_norm
from .meta import dim_of_images
from .strides import norms_of_vectors, stages_by_stride, strides

NORMS = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    FrozenBatchNormAct2d,
    FrozenBatchNorm2d,
    RmsNorm,
    NormLayer,
)
SEQUENCES = (nn.Sequential, nn.ModuleList, RegStage)  # run their children one after the other
SHORTCUTS = {'downsample', 'shortcut', 'skip', 'project'}
SEVERAL_MAPS = {'HighResolutionModule', 'HRModule', 'SequentialList', 'SwinBlockSequence'}  # return more than one map
# mmseg's transformers, whose blocks pass tokens (N, L, C); timm's say so themselves
_TOKENS = {'SwinTransformer', 'MixVisionTransformer', 'VisionTransformer', 'BEiT', 'MAE', 'PCPVT', 'SVT'}

Named = tuple[str, nn.Module]


def layout_of(model: nn.Module) -> tuple[int, int]:
    """`channel_dim` and `prefix_tokens` of the tensors between the blocks of a model; (1, 0) for maps (N, C, H, W)."""
    model = unwrapped(model)
    prefix = getattr(model, 'num_prefix_tokens', None)
    if prefix is not None:
        return -1, int(prefix)
    layout = getattr(model, 'output_fmt', '')
    if getattr(layout, 'value', layout) in ('NHWC', 'NLC'):  # extractors have an enum
        return -1, 0
    if type(model).__name__ in _TOKENS and type(model).__module__.startswith('mmseg.'):
        return -1, int(hasattr(model, 'cls_token') and getattr(model, 'with_cls_token', True))
    return 1, 0


def levels_of(model: nn.Module) -> dict[str, tuple[str, int | None]]:
    """'stem', 'stage1', ... -> name of the module that ends it, and its channels if they are known.

    A feature extractor has only the levels up to the last one that it returns.
    """
    info = getattr(model, 'feature_info', None)
    if info is None:
        return _plain_levels(model)
    entries: Sequence[Any] = info
    if not isinstance(info, Sequence):
        entries = info.info[: 1 + max((i % len(info.info) for i in info.out_indices), default=-1)]
    within = name_within(model)
    if within:
        entries = [{**entry, 'module': f'{within}.{entry["module"]}'} for entry in entries]
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
    """`levels_of` for models without `feature_info`: by the names of stages, otherwise by the strides of outputs."""
    children = dict(model.named_children())
    paths = [k for k in (f'layer{i}' for i in range(1, 5)) if k in children and 'layer5' not in children]
    for name in ('stages', 'layers'):
        if not paths and isinstance(children.get(name), nn.ModuleList | nn.Sequential):
            found = [f'{name}.{k}' for k, child in children[name].named_children() if list(child.children())]
            paths = [path for path in found if strides(model).get(path, 4) > 2]  # without the stem
    backbones = [k for k, m in children.items() if hasattr(m, 'feature_info')]
    if len(backbones) == 1 and not paths:  # mmseg's and mmpretrain's TIMMBackbone
        inner_levels = levels_of(children[backbones[0]])
        return {k: (f'{backbones[0]}.{path}', channels) for k, (path, channels) in inner_levels.items()}
    for i, path in enumerate(paths):
        inner = [k for k, m in model.get_submodule(path).named_children() if isinstance(m, nn.ModuleList)]
        paths[i] = f'{path}.{inner[0]}' if inner else path  # as in [embedding, blocks, norm]
    return {f'stage{i}': (path, None) for i, path in enumerate(paths or stages_by_stride(model), 1)}


def main_path(module: nn.Module) -> Iterator[Named]:
    """named_modules without shortcut branches and without style layers."""
    for name, child in module.named_modules():
        if not ({*SHORTCUTS, 'style'} & set(name.split('.'))):
            yield name, child


def conv_norm_pairs(model: nn.Module) -> Iterator[tuple[Named, Named]]:
    """Convolutions with the norm layers that directly follow them."""
    for prefix, parent in main_path(model):
        if isinstance(parent, NormLayer):
            continue
        children = [(k, m) for k, m in parent.named_children() if not isinstance(m, nn.Identity)]
        for (name, child), (norm_name, norm) in pairwise(children):
            if name in SHORTCUTS:
                continue
            while is_sequence(child) and list(child.children()):
                last, child = last_child(child)
                name = f'{name}.{last}'
            if isinstance(_adapted(child), _ConvNd) and isinstance(norm, NORMS):
                dot = f'{prefix}.' if prefix else ''
                yield (dot + name, child), (dot + norm_name, norm)


def _adapted(module: nn.Module) -> nn.Module:
    """The layer inside an adapter, such as those of peft; any other module itself."""
    children = dict(module.named_children())
    return _adapted(children['base_layer']) if 'base_layer' in children else module


def batch_norms(model: nn.Module) -> Iterator[Named]:
    """Norm layers of maps that keep batch statistics, and the style layers that have replaced some."""
    inside = {part for layer in model.modules() if isinstance(layer, NormLayer) for part in layer.modules()}
    dim = dim_of_images(model)
    found = {k: m for k, m in model.named_modules() if is_batch_norm(m, dim) and m not in inside}
    vectors = norms_of_vectors(model, found) if dim == 3 else set()
    for name, module in model.named_modules():
        if replaces_norm(module) or (name in found and name not in vectors):
            yield name, module


def norms_after(model: nn.Module, module: nn.Module) -> list[Named]:
    """The batch norms that are registered after a module of the model."""
    order = {m: i for i, m in enumerate(model.modules())}
    last = max(order[m] for m in module.modules())
    return [(name, norm) for name, norm in batch_norms(model) if order[norm] > last]


def is_sequence(module: object) -> bool:
    """Whether a module runs its children one after the other; a Sequential with its own forward may join their maps."""
    forwards = (nn.Sequential.forward, nn.ModuleList.forward, RegStage.forward)
    return isinstance(module, SEQUENCES) and type(module).forward in forwards


def is_batch_norm(module: object, dim: int = 4) -> bool:
    """Whether a module is a batch norm of maps, possibly a frozen one, which `NormLayer.from_norm` refuses.

    Args:
        module: Anything.
        dim: Dimensions of the input: `BatchNorm1d` normalises maps only in networks for signals (3), otherwise vectors
            and tokens.
    """
    if isinstance(module, nn.BatchNorm1d):
        return dim == 3
    return is_frozen(module) or isinstance(module, _BatchNorm)


def blocks_of(model: nn.Module) -> dict[str, list[Named]]:
    """'stage1', ... -> the blocks of the stage, in order; only stages that consist of blocks."""
    order = {name: i for i, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    levels = levels_of(model)
    ends = {
        k: max((i for name, i in order.items() if f'{name}.'.startswith(f'{path}.')), default=-1)
        for k, (path, _) in levels.items()
    }
    found: dict[str, list[Named]] = {}
    for name, block in _all_blocks(model):
        stage = next((k for k, end in ends.items() if order[name] <= end), 'stem')
        if stage != 'stem':
            found.setdefault(stage, []).append((name, block))
    return found


def _all_blocks(model: nn.Module) -> Iterator[Named]:
    """The blocks of a model, or of the model inside one of timm's feature extractors."""
    within = name_within(model)
    for name, block in _blocks(unwrapped(model), ''):
        yield f'{within}.{name}' if within else name, block


def _blocks(module: nn.Module, path: str) -> Iterator[Named]:
    for name, child in module.named_children():
        if not path and name in ('stem', 'head'):
            continue
        name = f'{path}.{name}' if path else name
        inner = getattr(child, 'blocks', None)
        if isinstance(inner, SEQUENCES):
            yield from _blocks(inner, f'{name}.blocks')
        elif isinstance(child, (*SEQUENCES, nn.ModuleDict)):
            yield from _blocks(child, name)
        elif path and _is_block(child):
            yield name, child


def _is_block(module: nn.Module) -> bool:
    parts = list(module.modules())
    return (
        len(parts) > 1
        and not isinstance(module, NORMS)
        and any(isinstance(m, NORMS) for m in parts)
        and 'PatchEmbed' not in type(module).__name__
    )


def stem_of(model: nn.Module) -> tuple[Named | None, Named | None, Named | None]:
    """The last convolution before the stages, its norm, and the max pooling that follows; None for a missing one."""
    modules = list(model.named_modules())
    order = {name: i for i, (name, _) in enumerate(modules)}
    levels = {level: path for level, (path, _) in levels_of(model).items() if path in order}
    starts = [name for name, _ in _all_blocks(model) if name in order]
    starts += [path for level, path in levels.items() if level != 'stem' or not starts]
    start = min((order[name] for name in starts), default=0)
    convs = [(k, m) for k, m in modules[:start] if isinstance(m, _ConvNd)]
    norms = {conv: norm for (conv, _), norm in conv_norm_pairs(model) if order[conv] < start}
    convs = [(k, m) for k, m in convs if k in norms] or convs
    if not convs:
        return None, None, None
    conv = convs[-1]
    norm = norms.get(conv[0])
    last = order[(norm or conv)[0]]
    pools = [(k, m) for k, m in modules[last:start] if isinstance(m, _MaxPoolNd)]
    return conv, norm, pools[0] if pools else None


def out_channels(module: nn.Module) -> int | None:
    """Channels of a module's output: those of the last convolution or norm on its main path; None if it has none."""
    for _, child in reversed(list(main_path(module))):
        if isinstance(child, _ConvNd):
            return child.out_channels
        if isinstance(child, NORMS):
            weight = getattr(child, 'weight', None)  # torchvision's frozen batch norm has nothing else
            shape: Any = getattr(child, 'normalized_shape', None) or getattr(weight, 'shape', (None,))
            return getattr(child, 'num_features', None) or getattr(child, 'num_channels', None) or shape[-1]
    return None
