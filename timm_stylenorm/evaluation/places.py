"""Look at the maps at the sites of a network, or change them, without a layer in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
    """What is looked at.

    Attributes:
        name: 'stage1', or the module's name where a site means several modules.
        path: The module's name; that of the outermost sequence that ends with it.
        module: Its output is looked at; of the site `input`, what it is given.
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
        ValueError: No such site, a residual sum, which is no module's output, or no single map there.
    """
    names = default_sites(model) if sites is None else list(sites)
    found = find_sites(model, names)
    for site in found:
        if site.block is not None or site.slot_of is not None:
            raise ValueError(f'site {site.asked!r} is inside of a block; name modules, stages, or blocks instead')
    found = [replace(site, where='after') if site.where == 'replace' else site for site in found]  # after that norm
    seen = probe(model, found)
    several = {site.asked for site in found if sum(other.asked == site.asked for other in found) > 1}
    places: dict[nn.Module, Place] = {}
    for site in reached(found, seen, sites is not None):
        arrivals = (seen or {}).get((site.name, site.where))
        settled = site if arrivals is None else settle(site, arrivals, False, False)
        path, module = (site.name, site.module) if site.where == 'before' else _outermost(model, site)
        places.setdefault(module, Place(site.name if site.asked in several else site.asked, path, module, settled))
    return list(places.values())


def default_sites(model: nn.Module) -> list[str]:
    """The input, the stem and the ends of the stages, as far as the model has them."""
    return [name for name in site_names(model) if re.fullmatch(r'input|stem(\.(?!norm).*)?|stage\d+', name)]


def _outermost(model: nn.Module, site: Site) -> tuple[str, nn.Module]:
    """The sequence that ends with the module of a site, and its name: hooks of others may change what it returns."""
    path, module = site.name, site.module
    while '.' in path:
        parent = model.get_submodule(path.rpartition('.')[0])
        if not is_sequence(parent) or last_child(parent)[1] is not module or not isinstance(parent, nn.Sequential):
            break
        path, module = path.rpartition('.')[0], parent
    return path, module


@contextmanager
def looking(places: Sequence[Place], look: Look) -> Iterator[None]:
    """Within, every map at the places is shown to `look`, after what hooks of others have made of it.

    Args:
        places: Where.
        look: Called with the name of a place and the map (N, C, *spatial); of tokens (N, C, L), without prefix. What it
            returns takes the place of the map, unless it is None.
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
    if site.channel_dim == 1:
        return look(place.name, x)
    body = look(place.name, x[:, site.prefix_tokens :].movedim(-1, 1))
    if body is None:
        return None
    changed = x.clone()
    changed[:, site.prefix_tokens :] = body.movedim(1, -1)
    return changed
