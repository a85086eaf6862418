"""Where the channels are in a tensor that arrives at a site: found from the shapes of a probe, or checked at first use.

A layout is (channel_dim, prefix_tokens). It fits if what arrives in every call, in both forward passes of the probe,

    is one tensor of rank 3 to 5 whose first axis is the images of the batch,
    has the same number of channels,
    is otherwise a map: (h, w) with the aspect ratio of the images, or as many tokens after the prefix as such a map
    has. For signals (l), and for clips and volumes (d, h, w), the last axis must grow as that of the input does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isqrt
from typing import NamedTuple, TypeGuard

from torch import Tensor

from .meta import Shape
from .probe import Arrivals, Call
from .site import Site

Layout = tuple[int, int]
_SLACK = 4  # positions by which a stem without padding shrinks a map


def runs(site: Site, seen: Mapping[tuple[str, str], Arrivals] | None) -> bool:
    """Whether a probe has reached a site in a stage; any other site, or any site without a probe, counts as running."""
    return seen is None or not site.of_stage or (site.name, site.where) in seen


def reached(sites: Sequence[Site], seen: Mapping[tuple[str, str], Arrivals] | None, chosen: bool) -> list[Site]:
    """The sites, except those in stages that a probe has not reached, such as stages beyond the depth of an encoder.

    Args:
        sites: The sites of one method.
        seen: What the probe has seen; None if it could not run.
        chosen: Whether the user has named the sites.

    Raises:
        ValueError: A site that the user has named does not run at all, or none of the default sites runs.
    """
    found = [site for site in sites if runs(site, seen)]
    running = {site.asked for site in found}
    past = [site for site in sites if site.asked not in running]
    if past and (chosen or not found):
        kind = type(past[0].module).__name__
        raise ValueError(
            f'site {past[0].asked!r}: {past[0].name!r} ({kind}) does not run, as where the model ends before it; name '
            'stages or modules that do'
        )
    return found


def settle(site: Site, seen: Arrivals, told: bool = False, prefix_told: bool = False) -> Site:
    """The site with the channels and the layout of the tensors that arrive there.

    Args:
        site: A site with the expected layout.
        seen: What a probe has seen there.
        told: Whether the user has said where the channels are; no other axis is tried then.
        prefix_told: Whether the user has said how many tokens come first; no other number is tried then.

    Raises:
        ValueError: No layout fits, two fit equally, a module is called more or less often than assumed, or a stage
            has other channels than `feature_info` says.
    """
    _check_calls(site, seen)
    if site.where == 'replace':
        if all(_is_batch(call.shape, n) for n, calls in _batches(seen) for call in calls):
            return site
        maps = {3: '(N, C, L) of whole signals', 4: '(N, C, H, W) of whole images', 5: '(N, C, D, H, W)'}
        raise ValueError(_misfit(site, seen, f'a norm layer of maps takes {maps[len(seen.images[0])]}'))
    dims = [site.channel_dim] if told else list(dict.fromkeys((site.channel_dim, 1, -1)))
    prefixes = [site.prefix_tokens] if prefix_told else list(dict.fromkeys((site.prefix_tokens, 0)))
    fits = []
    for layout in [(dim, prefix) for dim in dims for prefix in (prefixes if dim == -1 else [0])]:
        found = _fit(seen, layout)
        if found is not None:
            fits.append((layout, *found))
    if not fits or (told and prefix_told and fits[0][0][1] != site.prefix_tokens):
        expected = f'(channel_dim={site.channel_dim}, prefix_tokens={site.prefix_tokens}) ' if told else ''
        raise ValueError(
            _misfit(site, seen, f'expected one map {_maps(seen)} or tokens (N, L, C) {expected}of the images')
        )
    exact = [fit for fit in fits if fit[2]] or fits
    layout, channels, _ = exact[0]
    if len({fit[0][0] for fit in exact}) > 1 and site.channel_dim == 1 and not told and _rank(seen) == 3:
        raise ValueError(_misfit(site, seen, 'the channels may be second or last; say channel_dim=1 or channel_dim=-1'))
    if site.promised not in (None, channels):
        raise ValueError(_misfit(site, seen, f'feature_info says {site.promised} channels'))
    return replace(site, channels=channels, channel_dim=layout[0], prefix_tokens=layout[1])


def _maps(seen: Arrivals) -> str:
    axes = {3: 'l', 4: 'h, w', 5: 'd, h, w'}[len(seen.images[0])]
    return f'(N, C, {axes}), (N, {axes}, C)'


def _batches(seen: Arrivals) -> list[tuple[int, Sequence[Call]]]:
    return [(images[0], calls) for images, calls in zip(seen.images, seen.calls, strict=True)]


def _rank(seen: Arrivals) -> int:
    return max(len(call.shape or ()) for calls in seen.calls for call in calls)


def _is_batch(shape: Shape | None, n: int) -> TypeGuard[Shape]:
    return shape is not None and len(shape) in (3, 4, 5) and shape[0] == n


def _check_calls(site: Site, seen: Arrivals) -> None:
    if site.where == 'before' and any(count != site.calls for counts in seen.counts for count in counts):
        counts = sorted({count for counts in seen.counts for count in counts})
        raise ValueError(
            f'site {site.label!r}: {site.name!r} ({type(site.module).__name__}) is called '
            f'{" or ".join(map(str, counts))} times, expected {site.calls}: the residual sum cannot be found; '
            f'{site.label.partition(".")[0]!r} means after the block'
        )


def _misfit(site: Site, seen: Arrivals, expected: str) -> str:
    shapes = [', '.join(dict.fromkeys(call.text for call in calls)) or 'nothing' for calls in seen.calls]
    return (
        f'site {site.label!r}: at {site.name!r} ({type(site.module).__name__}) arrive {shapes[0]} for images '
        f'{seen.images[0]}, and {shapes[1]} for images {seen.images[1]}; {expected}; name another stage or module'
    )


def _fit(seen: Arrivals, layout: Layout) -> tuple[int, bool] | None:
    """The number of channels, and whether the ratio is exact; None if the layout does not fit."""
    if len(seen.calls[0]) != len(seen.calls[1]):
        return None
    found, exact = set(), True
    for one, two in zip(*seen.calls, strict=True):
        if not (_is_batch(one.shape, seen.images[0][0]) and _is_batch(two.shape, seen.images[1][0])):
            return None
        shapes = one.shape, two.shape
        fit = _is_map(shapes, seen.images, layout)
        if fit is None:
            return None
        found.add(shapes[0][layout[0]])
        exact = exact and fit
    return (found.pop(), exact) if len(found) == 1 else None


def _is_map(shapes: tuple[Shape, Shape], images: tuple[Shape, Shape], layout: Layout) -> bool | None:
    """True for a map in the exact ratio of the images, False if nearly; None if not a map, or if channels differ."""
    dim, prefix = layout
    one, two = shapes
    if len(one) != len(two) or one[dim] != two[dim]:
        return None
    factor = images[1][-1] // images[0][-1]
    spatial = [list(shape) for shape in shapes]
    for axes in spatial:
        del axes[dim], axes[0]
    if len(images[0]) != 4:
        before, before2 = ([n - prefix for n in axes[:1]] + axes[1:] for axes in spatial)
        if before[0] < 1 or (prefix and len(before) > 1) or before[:-1] != before2[:-1]:
            return None
        off = abs(before2[-1] - factor * before[-1])
        return off <= factor - 1 if off <= _SLACK * factor else None
    ratio = images[0][3] / images[0][2]
    if len(one) == 5:
        return None
    if len(one) == 4:
        (h, w), (h2, w2) = spatial
        slack = _SLACK * max(1, ratio, 1 / ratio)
        if prefix or h != h2 or abs(w - h * ratio) > slack or abs(w2 - factor * w) > slack:
            return None
        return abs(w - h * ratio) < 1 and abs(w2 - factor * w) <= 1
    count, count2 = (axes[0] - prefix for axes in spatial)
    grid = grid_of(count, ratio)
    if grid is None:
        return None
    h, w = grid
    return True if count2 % h == 0 and abs(count2 // h - factor * w) <= factor - 1 else None


def grid_of(count: int, ratio: float) -> tuple[int, int] | None:
    """Height and width of a map with this number of positions; None if there is none of this ratio."""
    if count < 1:
        return None
    middle = isqrt(round(count / ratio))
    for h in (middle, middle + 1, middle - 1):
        if h > 0 and count % h == 0 and abs(count // h - h * ratio) < (1 if ratio != 1 else 0.5):
            return h, count // h
    return None


class Unchecked(NamedTuple):
    """What is expected of the first tensor that arrives at a site if no probe has run.

    Attributes:
        label, name: Those of the site.
        channels: Number of channels; None if unknown.
        channel_dim, prefix_tokens: The layout.
        told: Whether the user has said the layout; otherwise tokens of images (`dim=4`) must form a square map.
        dim: Number of dimensions of the model's input.
    """

    label: str
    name: str
    channels: int | None
    channel_dim: int
    prefix_tokens: int
    told: bool = False
    dim: int = 4

    def check(self, x: object) -> None:
        """Raise a ValueError if `x` is not as expected."""
        if not isinstance(x, Tensor):
            raise ValueError(f'site {self.label!r}: at {self.name!r} arrives a {type(x).__name__}, expected one tensor')
        shape, dim, prefix = tuple(x.shape), self.channel_dim, self.prefix_tokens
        if x.dim() not in (3, 4, 5) or (prefix and x.dim() != 3):
            rank = 'tokens (N, L, C)' if prefix else 'a map or tokens of rank 3, 4 or 5'
        elif self.channels is not None and shape[dim] != self.channels:
            rank = f'{self.channels} channels at axis {dim}'
        elif x.dim() == 3 and self.dim == 4 and not self.told and grid_of(shape[3 - dim % 3] - prefix, 1) is None:
            rank = (
                f'a square map of tokens after {prefix} prefix tokens, or channel_dim= and prefix_tokens= in the style'
            )
        else:
            return
        raise ValueError(f'site {self.label!r}: at {self.name!r} arrives {shape}, expected {rank}')
