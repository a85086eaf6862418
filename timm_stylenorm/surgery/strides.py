"""What a probe finds: stages of a model without named ones, where its maps become smaller, and norms of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import log2, prod
from weakref import WeakKeyDictionary

from torch import nn

from .probe import Arrivals, Place, probe

_HEADS = {'classifier', 'head', 'heads', 'fc'}
_vectors: WeakKeyDictionary[nn.Module, tuple[list[str], set[str]]] = WeakKeyDictionary()
_known: WeakKeyDictionary[nn.Module, tuple[list[str], dict[str, int]]] = WeakKeyDictionary()


def strides(model: nn.Module) -> dict[str, int]:
    """Name of a module -> width of the images over width of the map that it returns, to the nearest power of 2.

    The modules are the children of the model except its head, and the children of its sequences, which precede the
    sequences, in the order of registration, if they return one map or tokens of the images. Empty if no probe runs.
    """
    parts = dict(_parts(model))
    if model not in _known or _known[model][0] != list(parts):
        seen = probe(model, [Place(name, module) for name, module in parts.items()]) or {}
        found = {name: _stride(seen[name, 'after']) for name in parts if (name, 'after') in seen}
        _known[model] = list(parts), {name: stride for name, stride in found.items() if stride}
    return _known[model][1]


def stages_by_stride(model: nn.Module) -> list[str]:
    """The last module at each stride above 2, while maps become smaller; empty if these are fewer than two."""
    ends: dict[int, str] = {}
    for name, stride in strides(model).items():
        if stride >= max(ends, default=0):
            ends[stride] = name
    found = [name for stride, name in ends.items() if stride > 2]
    return found if len(found) > 1 else []


def norms_of_vectors(model: nn.Module, norms: Mapping[str, nn.Module]) -> set[str]:
    """The names of the norms at which vectors (N, C) arrive instead of maps."""
    names = list(norms)
    if names and (model not in _vectors or not {*names} <= {*_vectors[model][0]}):
        seen = probe(model, [Place(name, norm) for name, norm in norms.items()]) or {}
        short = {name for (name, _), found in seen.items() if any(len(c.shape or ()) == 2 for c in found.calls[0])}
        _vectors[model] = names, short
    return _vectors[model][1] if names else set()


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        if name in _HEADS:
            continue
        if isinstance(child, nn.Sequential | nn.ModuleList) and name != 'stem':
            yield from ((f'{name}.{k}', m) for k, m in child.named_children())
        yield name, child


def _stride(seen: Arrivals) -> int:
    """The stride of an output, from its one axis that differs between two image widths; 0 if it is not a map."""
    if any(len(calls) != 1 or calls[0].shape is None for calls in seen.calls):
        return 0
    one, two = (calls[0].shape or () for calls in seen.calls)
    axes = [axis for axis in range(1, len(one)) if len(one) == len(two) and one[axis] != two[axis]]
    _, _, *sizes = seen.images[0]
    if len(axes) != 1 or len(one) not in (3, 4, 5) or one[0] != seen.images[0][0]:
        return 0
    tokens = len(one) == 3 and len(sizes) > 1
    stride = (prod(sizes) / one[axes[0]]) ** (1 / len(sizes)) if tokens else sizes[-1] / one[axes[0]]
    return 2 ** round(log2(max(stride, 1)))
