"""What arrives at places in a model: two forward passes on the meta device, which compute shapes and change nothing.

The second forward pass has more images, and wider ones if the model accepts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from .meta import Shape, forward, image_channels, image_sizes, on_meta, root_of

if TYPE_CHECKING:
    from .site import Site

BATCHES = (5, 7)


class Place(NamedTuple):
    """A module whose output is observed."""

    name: str
    module: nn.Module
    where: str = 'after'
    block: None = None


class Call(NamedTuple):
    """What arrived in one call.

    Attributes:
        shape: Shape of a single tensor; None for anything else.
        text: For messages: the shape, or the kind of object and the shapes in it.
    """

    shape: Shape | None
    text: str


class Arrivals(NamedTuple):
    """What arrived at one site.

    Attributes:
        images: Shapes of the images in the two forward passes.
        calls: The calls in each forward pass.
        counts: For each forward pass, how often the module was called, one number for each call of its block; without a
            block, one number for the whole pass.
    """

    images: tuple[Shape, Shape]
    calls: tuple[tuple[Call, ...], tuple[Call, ...]]
    counts: tuple[tuple[int, ...], tuple[int, ...]]


def probe(model: nn.Module, sites: Sequence[Site | Place]) -> dict[tuple[str, str], Arrivals] | None:
    """What arrives at each site in evaluation mode, by its name and `where`; sites that do not run are left out.

    None if no forward pass could be run: the model takes other inputs than images, reads values, or raised an error of
    its own for every size that was tried.
    """
    model = root_of(model)
    with ExitStack() as stack:
        try:
            stack.enter_context(on_meta(model))
            for channels in image_channels(model):
                for size in image_sizes(model):
                    found = _run_twice(model, sites, channels, size)
                    if found is not None:
                        return found
        except Exception:  # a kind of tensor that has no twin
            return None
    return None


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
    """One forward pass; None if it raises an error."""
    recorders = {(site.name, site.where): _Recorder(site) for site in sites}
    whole = forward(model, shape)
    for recorder in recorders.values():
        recorder.remove()
    return {key: recorder.seen() for key, recorder in recorders.items()} if whole else None


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
        del self.calls[self.since : -1]  # only the last call counts

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
