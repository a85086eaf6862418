"""The table of methods, from which names, registry entries, docs and tests derive."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import layers
from .errors import unknown


@dataclass(frozen=True)
class Method:
    """One row: a layer and where it goes.

    Attributes:
        layer: Layer class; its first argument is the number of channels.
        sites: Default sites, see `sites.find_sites`.
        summary: One line for the method table.
        paper: Authors, venue and arXiv number.
    """

    layer: type[layers.StyleLayer]
    sites: tuple[str, ...]
    summary: str
    paper: str

    @property
    def defaults(self) -> dict[str, Any]:
        """The layer's keyword arguments and their defaults."""
        parameters = list(inspect.signature(self.layer).parameters.values())[1:]
        return {p.name: p.default for p in parameters}

    @property
    def needs_channels(self) -> bool:
        """Whether the layer must know the number of channels."""
        first = next(iter(inspect.signature(self.layer).parameters.values()))
        return first.default is inspect.Parameter.empty

    def check_kwargs(self, name: str, kwargs: Mapping[str, Any]) -> None:
        """Raise a TypeError for a keyword that the layer does not take."""
        for key in kwargs:
            if key not in self.defaults:
                raise TypeError(unknown(f'argument of style method {name!r}:', key, [*self.defaults, 'sites', 'type']))


METHODS: dict[str, Method] = {
    'padain': Method(
        layers.PermutedAdaIN,
        sites=('convs',),
        summary='images of a batch swap their channel statistics, with probability p per convolution, in training',
        paper='Nuriel et al., CVPR 2021, arXiv:2010.05785',
    ),
    'snr': Method(
        layers.SNR,
        sites=('stage1', 'stage2', 'stage3'),
        summary='instance normalisation, then gated restitution of the channels that the task needs',
        paper='Jin et al., CVPR 2020 and arXiv:2101.00588',
    ),
    'mixstyle': Method(
        layers.MixStyle,
        sites=('stage1', 'stage2'),
        summary='images of a batch mix their channel statistics with those of another image, in training',
        paper='Zhou et al., ICLR 2021, arXiv:2104.02008',
    ),
    'efdmix': Method(
        layers.EFDMix,
        sites=('stage1', 'stage2'),
        summary='images of a batch mix their sorted values with those of another image, in training',
        paper='Zhang et al., CVPR 2022, arXiv:2203.07740',
    ),
}


def list_methods() -> list[str]:
    """Names of all methods, in the order of the table."""
    return list(METHODS)


def get_method(name: str) -> Method:
    """A row of the table.

    Raises:
        ValueError: No such method; names the nearest.
    """
    if name not in METHODS:
        raise ValueError(unknown('style method', name, METHODS))
    return METHODS[name]
