"""Look at the feature maps at the sites of a network, or change them, without adding a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..surgery.layouts import Unchecked, reached, settle
from ..surgery.probe import probe
from ..surgery.site import Site
from ..surgery.sites import find_sites, site_names
from ..surgery.structure import is_sequence
from ..torch_host import last_child

Look = Callable[[str, Tensor], Tensor | None]


@dataclass(frozen=True)
class Place:
    """A place whose maps are looked at.

    Attributes:
        name: 'stage1', or the module's name if a site means several modules.
        path: Name of `module`.
        module: The outermost sequence that ends with the site's module, whose output is looked at; for the site
            `input`, the module whose input is looked at.
        site: The site, with the layout of its maps.
    """

    name: str
    path: str
    module: nn.Module
    site: Site


def find_places(model: nn.Module, sites: Sequence[str] | None = None) -> list[Place]:
    """The places that sites mean, each module once.

    Args:
        model: A network of images.
        sites: Names as `add_style` takes them; by default the input, the stem and the ends of the stages.

    Raises:
        ValueError: An unknown site, a site inside of a block, which is not a module's output, or no single map there.
    """
    names = default_sites(model) if sites is None else list(sites)
    found = outputs(find_sites(model, names))
    for site in found:
        if site.block is not None or site.slot_of is not None:
            raise ValueError(f'site {site.asked!r} is inside of a block; name modules, stages, or blocks instead')
    several = {site.asked for site in found if sum(other.asked == site.asked for other in found) > 1}
    places: dict[nn.Module, Place] = {}
    for site in settled(model, found, sites is not None):
        path, module = (site.name, site.module) if site.where == 'before' else _outermost(model, site)
        places.setdefault(module, Place(site.name if site.asked in several else site.asked, path, module, site))
    return list(places.values())


def outputs(sites: Iterable[Site]) -> list[Site]:
    """The sites, with the outputs of norm layers in place of these layers."""
    return [replace(site, where='after') if site.where == 'replace' else site for site in sites]


def settled(model: nn.Module, sites: Sequence[Site], chosen: bool = True) -> list[Site]:
    """The sites with the layout that a probe finds there; unchanged if no probe can run.

    Args:
        model: A network of images.
        sites: Sites in it.
        chosen: Whether a user has named them; if not, sites in stages that do not run are left out.

    Raises:
        ValueError: A site does not run, or does not get a single map.
    """
    seen = probe(model, sites)
    if seen is None:
        return list(sites)
    found = []
    for site in reached(sites, seen, chosen):
        if (site.name, site.where) not in seen:
            raise ValueError(f'site {site.label!r}: {site.name!r} ({type(site.module).__name__}) does not run')
        found.append(settle(site, seen[site.name, site.where]))
    return found


def maps_of(x: Tensor, site: Site) -> Tensor:
    """What arrives at a site as maps (N, C, *spatial), or as tokens (N, C, L) without prefix tokens; a view."""
    return x if site.channel_dim == 1 else x[:, site.prefix_tokens :].movedim(-1, 1)


def default_sites(model: nn.Module) -> list[str]:
    """The input, the stem and the ends of the stages, as far as the model has them."""
    return [name for name in site_names(model) if re.fullmatch(r'input|stem(\.(?!norm).*)?|stage\d+', name)]


def _outermost(model: nn.Module, site: Site) -> tuple[str, nn.Module]:
    """Name and module of the outermost sequence that ends with a site's module: hooks on it may change its output."""
    path, module = site.name, site.module
    while '.' in path:
        parent = model.get_submodule(path.rpartition('.')[0])
        if not is_sequence(parent) or last_child(parent)[1] is not module or not isinstance(parent, nn.Sequential):
            break
        path, module = path.rpartition('.')[0], parent
    return path, module


@contextmanager
def looking(places: Sequence[Place], look: Look) -> Iterator[None]:
    """Context in which `look` is called with every map at the places, after the hooks of others have changed it.

    Args:
        places: The places.
        look: Called with the name of a place and the map (N, C, *spatial), or tokens (N, C, L) without prefix tokens.
            What it returns replaces the map, unless it is None.
    """
    handles = []
    try:
        for place in places:
            if place.site.where == 'before':
                handles.append(place.module.register_forward_pre_hook(_before(place, look)))
            else:
                handles.append(place.module.register_forward_hook(_after(place, look)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before(place: Place, look: Look) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        changed = _shown(place, args[0], look)
        return None if changed is None else (changed, *args[1:])

    return hook


def _after(place: Place, look: Look) -> Callable[[nn.Module, object, Tensor], Tensor | None]:
    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
        return _shown(place, output, look)

    return hook


def _shown(place: Place, x: Tensor, look: Look) -> Tensor | None:
    site = place.site
    Unchecked(site.label, site.name, site.channels, site.channel_dim, site.prefix_tokens, told=True).check(x)
    found = look(place.name, maps_of(x, site))
    if found is None or site.channel_dim == 1:
        return found
    changed = x.clone()
    maps_of(changed, site)[:] = found
    return changed
