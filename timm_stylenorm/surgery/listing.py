"""Which sites a model has, and which methods fit it, without a change to the model."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from ..methods import ROWS
from .add import add_style
from .sites import find_sites, site_names


@dataclass(frozen=True)
class SiteRow:
    """A site of a model.

    Attributes:
        name: As `sites=` takes it.
        modules: Names of the modules that it means.
        channels: Of each; None where they cannot be told.
    """

    name: str
    modules: tuple[str, ...]
    channels: tuple[int | None, ...]


def list_sites(model: nn.Module) -> list[SiteRow]:
    """The sites of a model, in the order of `surgery.sites`; those that mean nothing in it are left out.

    Names of modules and globs over them are sites, too.
    """
    rows = []
    for name in site_names(model):
        sites = find_sites(model, name)
        rows.append(SiteRow(name, tuple(site.name for site in sites), tuple(site.channels for site in sites)))
    return rows


def fitting_methods(model: nn.Module) -> dict[str, str | None]:
    """Method -> None where it fits the model at its default sites, else why `add_style` refuses it."""
    return {name: _refusal(_without_copying_tensors(model), name) for name in ROWS}


def _refusal(model: nn.Module, method: str) -> str | None:
    try:
        add_style(model, method)
    except ValueError as error:
        return str(error)
    return None


def _without_copying_tensors(model: nn.Module) -> nn.Module:
    """A copy of the modules with the tensors of the model itself, which `add_style` does not change."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]})
