"""Channel statistics of the feature maps of a domain, and maps that are given the statistics of another domain.

y = (x - m) / s * s' + m',    m, s: mean and deviation of each channel of an image, (N, C)

per image    (m', s') are those of a random image of the other domain, as AdaIN has it (Huang & Belongie, ICCV 2017)
matched      m' = E'[m] + (m - E[m]) D'[m] / D[m], and s' alike: mean E and deviation D over the images become those
             of the other domain, and images go on to differ
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import instance_moments, restyle
from .places import Look

EPS = 1e-10  # added to variances, so that constant channels divide by 1e-5


class ChannelStatistics:
    """Means and deviations (M, C) of the channels of all maps of a domain, by place.

    Pass `look` to `places.looking`. A network that runs over an image in windows adds a row for each window.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[Tensor]] = {}

    def look(self, place: str, x: Tensor) -> None:
        """Keep the statistics of a map."""
        self._rows.setdefault(place, []).append(torch.stack(_style(x)))

    def of(self, place: str) -> tuple[Tensor, Tensor]:
        """Means and deviations, each (M, C)."""
        rows = self._rows[place]
        if len(rows) > 1:
            self._rows[place] = rows = [torch.cat(rows, 1)]
        mean, std = rows[0]
        return mean, std

    def features(self, place: str) -> Tensor:
        """Means and deviations as features of each map, (M, 2 C)."""
        return torch.cat(self.of(place), 1)

    @property
    def places(self) -> list[str]:
        """Names of the places, in the order in which the network runs them."""
        return list(self._rows)


def _style(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, var = instance_moments(x)
    return mean, (var + EPS).sqrt()


def matched(own: ChannelStatistics, other: ChannelStatistics) -> Look:
    """The `Look` that gives maps of a domain the statistics of another one, as a distribution."""

    def moved(values: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
        ratio = theirs.std(0, correction=0) / mine.std(0, correction=0).clamp_min(EPS)
        return theirs.mean(0) + (values - mine.mean(0)) * ratio

    def look(place: str, x: Tensor) -> Tensor:
        pairs = zip(_style(x), own.of(place), other.of(place), strict=True)
        mean, std = (moved(*pair) for pair in pairs)
        return _restyled(x, mean, std.clamp_min(0))

    return look


def per_image(other: ChannelStatistics, seed: int) -> Look:
    """The `Look` that gives every map the statistics of a random image of another domain."""
    generator = torch.Generator().manual_seed(seed)

    def look(place: str, x: Tensor) -> Tensor:
        mean, std = other.of(place)
        chosen = torch.randint(len(mean), (len(x),), generator=generator).to(x.device)
        return _restyled(x, mean[chosen], std[chosen])

    return look


def _restyled(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    own_mean, own_std = _style(x)
    scale = std / own_std
    return restyle(x, scale, mean - own_mean * scale)
