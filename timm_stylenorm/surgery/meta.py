"""Forward passes on the meta device, which compute shapes and change nothing.

Everything that a module holds is restored afterwards: parameters, buffers, other tensors, modes, hooks, caches that a
forward pass fills, and the states of the random generators. Hooks of others do not run. No other forward pass of the
same model may run at the same time.
"""

from __future__ import annotations

import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..host import BatchNormAct2d, LayerNorm, LayerNorm2d, unwrapped
from ..torch_host import HOOKS_OF_FORWARD, compiled_call_off, within_compiled

Shape = tuple[int, ...]
# Modules that keep the shape: on the meta device, torch spends most of a forward pass on computing their outputs
_KEEPS_SHAPE = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Dropout)
_KEEPS_SHAPE_COPIES = (nn.LayerNorm, nn.GroupNorm, LayerNorm, LayerNorm2d)
SIZES = (224, 256, 64, 299, 512)
SIGNALS, CLIPS = [(1024,), (16384,), (256,)], [(16, 112, 112), (16, 224, 224), (32, 64, 64), (64, 64, 64)]

T = TypeVar('T', bound=AbstractContextManager[Any])


def watch(model: nn.Module, watcher: Callable[[], T]) -> T | None:
    """Run one whole forward pass in evaluation mode on the meta device within a new watcher, which is returned.

    None if no forward pass could be run. The watcher's `__enter__` may change modules and add hooks: everything is
    restored afterwards.
    """
    model = root_of(model)
    try:
        for channels in image_channels(model):
            for size in image_sizes(model):
                with on_meta(model, shorten=False), watcher() as watching:
                    if forward(model, (2, channels, *size)):
                        return watching
    except Exception:  # a kind of tensor that has no twin
        return None
    return None


def root_of(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of compilers and of data parallelism."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else within_compiled(model)
        if inner is None:
            return model
        model = inner


def first_conv(model: nn.Module) -> _ConvNd | None:
    """The first convolution in the order of definition; None if the model has none."""
    return next((m for m in model.modules() if isinstance(m, _ConvNd)), None)


def dim_of_images(model: nn.Module) -> int:
    """Number of dimensions of an input batch: 4 for images, 3 for signals (N, C, L), 5 for clips and volumes."""
    conv = first_conv(model)
    return 4 if conv is None else 2 + len(conv.kernel_size)


def image_channels(model: nn.Module) -> list[int]:
    """Numbers of image channels to try: those of the first convolution, and 3."""
    conv = first_conv(model)
    return list(dict.fromkeys([3 if conv is None else conv.in_channels, 3]))


def image_sizes(model: nn.Module) -> list[Shape]:
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


def forward(model: nn.Module, shape: Shape) -> bool:
    """Whether a model accepts images of a shape."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    try:
        model(torch.empty(shape, dtype=dtype, device='meta'))
    except Exception:  # whatever a model raises for images that it does not accept
        return False
    return True


@contextmanager
def on_meta(model: nn.Module, shorten: bool = True) -> Iterator[None]:
    """Within, the model is in evaluation mode on the meta device, without hooks; afterwards everything is restored."""
    modules = list(model.modules())
    kept = [(vars(module), dict(vars(module)), _contents(vars(module))) for module in modules]
    states = torch.get_rng_state(), random.getstate()
    twins: dict[int, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.device('meta'))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')
        try:
            for attributes, _, _ in kept:
                _swap(attributes, lambda tensor: _twin(tensor, twins))
            for module in modules if shorten else ():
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
    """Replace tensors in a module and in its containers by their twins; clear its hooks; set evaluation mode."""
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
    """A tensor of the same shape, strides and dtype on the meta device; always the same one for one tensor."""
    if id(tensor) not in twins:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device='meta')
        parameter = isinstance(tensor, nn.Parameter)
        twins[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if parameter else empty
    return twins[id(tensor)]


def _shorten(module: nn.Module) -> None:
    """Within `on_meta`, let a module that keeps the shape do nothing."""
    kind = type(module)
    original = within_compiled(module)
    if original is not None:
        vars(module)['forward'] = original
    elif kind in _KEEPS_SHAPE:
        vars(module)['forward'] = _same
    elif kind in _KEEPS_SHAPE_COPIES:
        vars(module)['forward'] = torch.Tensor.contiguous
    elif type(module) is BatchNormAct2d:
        drop, act = module.get_submodule('drop'), module.get_submodule('act')
        vars(module)['forward'] = lambda x: act(drop(x))


def _same(x: Tensor) -> Tensor:
    return x
