"""What arrives at places in a model: two forwards on the meta device, which compute shapes and touch nothing.

The images of the second forward are more and wider, where the model takes that. All that a module holds is put back
afterwards: parameters, buffers, other tensors, modes, hooks, caches that a forward fills, and the states of the random
generators. Hooks of others do not run. A probe must not run beside another forward of the same model.
"""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import BatchNormAct2d, LayerNorm, LayerNorm2d
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..host import HOOKS_OF_FORWARD, compiled_call_off, unwrapped, within_compiled

if TYPE_CHECKING:
    from .sites import Site

Shape = tuple[int, ...]
BATCHES = (5, 7)
# Modules that keep the shape: torch takes most of a forward on the meta device to compute what they return
_KEEPS_SHAPE = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Dropout)
_KEEPS_SHAPE_COPIES = (nn.LayerNorm, nn.GroupNorm, LayerNorm, LayerNorm2d)
SIZES = (224, 256, 64, 299, 512)
SIGNALS, CLIPS = [(1024,), (16384,), (256,)], [(16, 112, 112), (16, 224, 224), (32, 64, 64), (64, 64, 64)]


@dataclass(frozen=True)
class Place:
    """A module whose output is looked at."""

    name: str
    module: nn.Module
    where: str = 'after'
    block: None = None


@dataclass(frozen=True)
class Call:
    """What arrived in one call.

    Attributes:
        shape: Of a single tensor; None for anything else.
        text: For messages: the shape, or the kind of object and the shapes in it.
    """

    shape: Shape | None
    text: str


@dataclass(frozen=True)
class Arrivals:
    """What arrived at one site.

    Attributes:
        images: Shapes of the images of the two forwards.
        calls: Of each forward the calls.
        counts: Of each forward, how often the module was called within one call of its block, one number for each;
            without a block: within the forward.
    """

    images: tuple[Shape, Shape]
    calls: tuple[tuple[Call, ...], tuple[Call, ...]]
    counts: tuple[tuple[int, ...], tuple[int, ...]]


def probe(model: nn.Module, sites: Sequence[Site | Place]) -> dict[tuple[str, str], Arrivals] | None:
    """What arrives at each site in evaluation, by its name and `where`; sites that do not run there are left out.

    None: no forward could be run. The model takes something else than images, looks at values, or raised an error of
    its own for every size that was tried.
    """
    model = _root(model)
    with ExitStack() as stack:
        try:
            stack.enter_context(_on_meta(model))
            for channels in _channels(model):
                for size in _sizes(model):
                    found = _run_twice(model, sites, channels, size)
                    if found is not None:
                        return found
        except Exception:  # a kind of tensor that has no twin
            return None
    return None


def _root(model: nn.Module) -> nn.Module:
    """The model within compilers and within wrappers that communicate."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else within_compiled(model)
        if inner is None:
            return model
        model = inner


def _first_conv(model: nn.Module) -> _ConvNd | None:
    return next((m for m in model.modules() if isinstance(m, _ConvNd)), None)


def dim_of_images(model: nn.Module) -> int:
    """Dimensions of a batch of what the model takes: 4 for images, 3 for signals (N, C, L), 5 for clips and volumes."""
    conv = _first_conv(model)
    return 4 if conv is None else 2 + len(conv.kernel_size)


def _channels(model: nn.Module) -> list[int]:
    """Numbers of image channels to try: those of the first convolution, and 3."""
    conv = _first_conv(model)
    return list(dict.fromkeys([3 if conv is None else conv.in_channels, 3]))


def _sizes(model: nn.Module) -> list[Shape]:
    """Image sizes to try: the model's own first."""
    if dim_of_images(model) != 4:
        return [*SIGNALS] if dim_of_images(model) == 3 else [*CLIPS]
    inner = unwrapped(model)
    sizes: list[object] = [getattr(m, 'img_size', None) for m in (inner, getattr(inner, 'patch_embed', None))]
    for name in ('pretrained_cfg', 'default_cfg'):
        cfg = getattr(inner, name, None)
        sizes.append((cfg.get('input_size') or (None,))[-2:] if isinstance(cfg, dict) else None)
    pairs = [(size, size) if isinstance(size, int) else size for size in [*sizes, *SIZES]]
    known = [tuple(pair) for pair in pairs if isinstance(pair, tuple | list) and len(pair) == 2]
    return list(dict.fromkeys(pair for pair in known if all(isinstance(n, int) for n in pair)))


def _run_twice(
    model: nn.Module, sites: Sequence[Site | Place], channels: int, size: Shape
) -> dict[tuple[str, str], Arrivals] | None:
    first = BATCHES[0], channels, *size
    one = _run(model, sites, first)
    if one is None:
        return None
    for factor in (2, 1):
        second = BATCHES[1], channels, *size[:-1], factor * size[-1]
        two = _run(model, sites, second)
        if two is not None:
            return {
                key: Arrivals((first, second), (one[key][0], two[key][0]), (one[key][1], two[key][1]))
                for key in one.keys() | two.keys()
                if (one[key][0] or two[key][0])
            }
    return None


_Seen = dict[tuple[str, str], tuple[tuple[Call, ...], tuple[int, ...]]]


def _run(model: nn.Module, sites: Sequence[Site | Place], shape: Shape) -> _Seen | None:
    """One forward; None where it raises an error."""
    recorders = {(site.name, site.where): _Recorder(site) for site in sites}
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    try:
        model(torch.empty(shape, dtype=dtype, device='meta'))
    except Exception:  # whatever a model raises for images that it does not take
        return None
    finally:
        for recorder in recorders.values():
            recorder.remove()
    return {key: recorder.seen() for key, recorder in recorders.items()}


class _Recorder:
    """Keeps what arrives at a site."""

    def __init__(self, site: Site | Place) -> None:
        self.calls: list[Call] = []
        self.counts: list[int] = []
        self.since: int | None = None
        module = site.module
        if site.where == 'after':
            self.handles = [module.register_forward_hook(self._after)]
        else:
            self.handles = [module.register_forward_pre_hook(self._before)]
        if site.block is not None:
            self.handles += [
                site.block.register_forward_pre_hook(self._begin),
                site.block.register_forward_hook(self._end),
            ]

    def _after(self, module: nn.Module, args: object, output: object) -> None:
        self.calls.append(_call(output))

    def _before(self, module: nn.Module, args: Sequence[object]) -> None:
        self.calls.append(_call(args[0] if args else None))

    def _begin(self, module: nn.Module, args: object) -> None:
        self.since = len(self.calls)

    def _end(self, module: nn.Module, args: object, output: object) -> None:
        self.counts.append(len(self.calls) - (self.since or 0))
        del self.calls[self.since : -1]  # the last call is meant

    def seen(self) -> tuple[tuple[Call, ...], tuple[int, ...]]:
        return tuple(self.calls), tuple(self.counts) if self.since is not None else (len(self.calls),)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _call(value: object) -> Call:
    if isinstance(value, Tensor):
        return Call(tuple(value.shape), str(tuple(value.shape)))
    items = list(value.values()) if isinstance(value, dict) else value
    inside = ', '.join(_call(item).text for item in items) if isinstance(items, list | tuple) else ''
    return Call(None, f'a {type(value).__name__}' + (f' of {inside}' if inside else ''))


@contextmanager
def _on_meta(model: nn.Module) -> Iterator[None]:
    """The model in evaluation on the meta device, without hooks; afterwards everything is as it was."""
    modules = list(model.modules())
    kept = [(vars(module), dict(vars(module)), _contents(vars(module))) for module in modules]
    states = torch.get_rng_state(), random.getstate()
    twins: dict[int, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.device('meta'))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        if any(hasattr(module, '_orig_mod') for module in modules):
            stack.enter_context(torch.compiler.set_stance('force_eager'))
        try:
            for attributes, _, _ in kept:
                _swap(attributes, lambda tensor: _twin(tensor, twins))
            for module in modules:
                _shorten(module)
            yield
        finally:
            for attributes, before, contents in kept:
                attributes.clear()
                attributes.update(before)
                for container, inside in contents:
                    container.clear()
                    (container.extend if isinstance(container, list) else container.update)(inside)
            torch.set_rng_state(states[0])
            random.setstate(states[1])


def _contents(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The containers that a module holds, with copies of what is in them."""
    kinds = (dict, OrderedDict, list, set)
    return [(value, type(value)(value)) for value in attributes.values() if type(value) in kinds]


def _swap(attributes: dict[str, Any], twin: Callable[[Tensor], Tensor]) -> None:
    """Put the twins of tensors into a module and into the containers that it holds; empty its hooks; evaluate."""
    for name, value in list(attributes.items()):
        if name in HOOKS_OF_FORWARD:
            value.clear()
        elif isinstance(value, Tensor):
            attributes[name] = twin(value)
        elif type(value) is tuple and any(isinstance(item, Tensor) for item in value):
            attributes[name] = tuple(twin(item) if isinstance(item, Tensor) else item for item in value)
        elif type(value) in (dict, OrderedDict, list) and value:
            for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
                if isinstance(item, Tensor):
                    value[key] = twin(item)
    attributes['training'] = False
    if attributes.get('grad_checkpointing'):
        attributes['grad_checkpointing'] = False
    compiled_call_off(attributes)


def _twin(tensor: Tensor, twins: dict[int, Tensor]) -> Tensor:
    """A tensor of the same shape, strides and dtype on the meta device, the same one for the same tensor."""
    if id(tensor) not in twins:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device='meta')
        parameter = isinstance(tensor, nn.Parameter)
        twins[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if parameter else empty
    return twins[id(tensor)]


def _shorten(module: nn.Module) -> None:
    """Let a module that keeps the shape do nothing, within `_on_meta`."""
    kind = type(module)
    if kind in _KEEPS_SHAPE:
        vars(module)['forward'] = _same
    elif kind in _KEEPS_SHAPE_COPIES:
        vars(module)['forward'] = torch.Tensor.contiguous
    elif type(module) is BatchNormAct2d:
        drop, act = module.drop, module.act
        vars(module)['forward'] = lambda x: act(drop(x))


def _same(x: Tensor) -> Tensor:
    return x
