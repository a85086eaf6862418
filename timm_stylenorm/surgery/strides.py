"""The stages of a model that names none: where its maps become smaller, as a probe sees them."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2, sqrt
from weakref import WeakKeyDictionary

from torch import nn

from .probe import Arrivals, Place, probe

_known: WeakKeyDictionary[nn.Module, tuple[list[str], dict[str, int]]] = WeakKeyDictionary()


def strides(model: nn.Module) -> dict[str, int]:
    """Name -> height of the images over that of the map which the module returns, to the next power of 2.

    Of the children of the model, and of those of its sequences, in the order of registration, as far as each returns
    one map or tokens of the images. Empty where no probe runs.
    """
    parts = dict(_parts(model))
    if model not in _known or _known[model][0] != list(parts):
        seen = probe(model, [Place(name, module) for name, module in parts.items()]) or {}
        found = {name: _stride(seen[name, 'after']) for name in parts if (name, 'after') in seen}
        _known[model] = list(parts), {name: stride for name, stride in found.items() if stride}
    return _known[model][1]


def stages_by_stride(model: nn.Module) -> list[str]:
    """The last module at each stride above 2, on the way down; none where that are fewer than two."""
    ends: dict[int, str] = {}
    for name, stride in strides(model).items():
        if stride >= max(ends, default=0):
            ends[stride] = name
    found = [name for stride, name in ends.items() if stride > 2]
    return found if len(found) > 1 else []


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in model.named_children():
        yield name, child
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from ((f'{name}.{k}', m) for k, m in child.named_children())


def _stride(seen: Arrivals) -> int:
    """0 for what is no map: of two widths of images, one axis of a map tells."""
    if any(len(calls) != 1 or calls[0].shape is None for calls in seen.calls):
        return 0
    one, two = (calls[0].shape or () for calls in seen.calls)
    axes = [axis for axis in range(1, len(one)) if len(one) == len(two) and one[axis] != two[axis]]
    _, _, height, width = seen.images[0]
    if len(axes) != 1 or len(one) not in (3, 4) or one[0] != seen.images[0][0]:
        return 0
    stride = width / one[axes[0]] if len(one) == 4 else sqrt(height * width / one[axes[0]])
    return 2 ** round(log2(max(stride, 1)))
