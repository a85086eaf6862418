"""Which sites a model has, and which methods fit it; the model does not change."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from ..layers.companions import COMPANIONS
from ..methods import METHODS, ROWS, Method, Placement
from .add import add_style
from .hooks import slots_open
from .layouts import runs
from .probe import probe
from .sites import find_sites, site_names, sites_within


class SiteRow(NamedTuple):
    """A site of a model.

    Attributes:
        name: The name, as `sites=` takes it.
        modules: Names of the modules that the site refers to.
        channels: Channels of each module; None if unknown.
    """

    name: str
    modules: tuple[str, ...]
    channels: tuple[int | None, ...]


def list_sites(model: nn.Module) -> list[SiteRow]:
    """The sites of a model, in the order of `surgery.sites`, except those that it does not have or that do not run.

    Names of modules and globs over them, which are not listed, are sites, too.
    """
    found = {name: find_sites(model, name) for name in site_names(model)}
    every = [site for sites in found.values() for site in sites]
    with slots_open(model, every):
        seen = probe(model, every)
    rows = []
    for name, sites in found.items():
        running = [site for site in sites if runs(site, seen)]
        if running:
            rows.append(SiteRow(name, tuple(s.name for s in running), tuple(s.channels for s in running)))
    return rows


def fitting_methods(model: nn.Module) -> dict[str, str | None]:
    """Method -> None if it fits the model at its default sites, otherwise the reason why `add_style` refuses it."""
    return {name: _refusal(_without_copying_tensors(model), name) for name in ROWS}


@dataclass(frozen=True)
class MethodAt:
    """A method that can act at a site.

    Attributes:
        method: Its name.
        sites: The value of `sites=` with which it acts there; empty if it does so by default.
        needs: What some hosts and arguments need besides its layer: for each, how to provide it.
    """

    method: str
    sites: tuple[str, ...]
    needs: tuple[str, ...]


def methods_at(model: nn.Module, sites: Mapping[str, str]) -> dict[str, list[MethodAt]]:
    """Site -> the methods that can act there, or within its module; those that do so by default come first.

    Args:
        model: A module.
        sites: Site names, as `sites=` takes them -> names of their modules.
    """
    usual = {name: _usual_places(model, row) for name, row in METHODS.items()}
    return {site: sorted(_methods_at(usual, site, path), key=lambda m: len(m.sites)) for site, path in sites.items()}


def _usual_places(model: nn.Module, row: Method) -> list[tuple[str, str]]:
    """Names of the default sites of a method, and of their modules; empty if the method does not fit."""
    try:
        return [(site.asked, site.name) for site in find_sites(model, sites_within(model, row.sites))]
    except ValueError:
        return []


def _methods_at(usual: Mapping[str, list[tuple[str, str]]], site: str, path: str) -> list[MethodAt]:
    found = []
    for name, places in usual.items():
        row = METHODS[name]
        here = [asked == site or (path and f'{module}.'.startswith(f'{path}.')) for asked, module in places]
        if any(here) or (places and row.placement is not Placement.REPLACE):
            needs = tuple(COMPANIONS[companion].cure for companion in row.companions)
            found.append(MethodAt(name, () if any(here) else (site,), needs))
    return found


def _refusal(model: nn.Module, method: str) -> str | None:
    try:
        add_style(model, method)
    except ValueError as error:
        return str(error)
    return None


def _without_copying_tensors(model: nn.Module) -> nn.Module:
    """A copy of the modules that shares the tensors of the model, which `add_style` does not change."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]})
