"""Statistics of the channels at sites of a network, image by image: what tells domains apart.

    mean, std   of each channel over the positions of an image: its style, which AdaIN, MixStyle (arXiv:2104.02008) and
                DSU (arXiv:2202.03958) change; pooled over a batch, what batch norm sees (AdaBN, arXiv:1603.04779)
    norms       L2 norms over the channels at positions, which domain norm makes one (arXiv:1911.13287)

Hooks reduce each map to these numbers as it arrives. Memory use thus grows by 2 C + POSITIONS floats for each image,
site and side, and no map is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..functional import instance_moments
from ..surgery.add import style_layers
from ..surgery.context import eval_mode, override_attr
from ..surgery.hooks import attachments_of, slots_open
from ..surgery.site import Site
from ..surgery.sites import find_sites
from .places import maps_of, settled

POSITIONS = 256  # positions of a map whose norms are kept, evenly spread


@dataclass(frozen=True)
class Statistics:
    """Statistics of the maps of N images.

    Attributes:
        mean: (N, C), float32, over the positions.
        std: (N, C), biased.
        norms: (N, P), over the channels, at P positions.
    """

    mean: np.ndarray
    std: np.ndarray
    norms: np.ndarray

    @property
    def style(self) -> np.ndarray:
        """Means and deviations of each image, (N, 2 C)."""
        return np.concatenate([self.mean, self.std], 1)

    def of_batches(self, domains: Sequence[object] | np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """What batch norm sees in batches of a single domain: means and variances of channels, and the domains.

        Args:
            domains: (N,), the domain of each image.
            size: Number of images in a batch, taken in order; images of a domain that do not fill a batch are left out.

        Returns:
            (B, 2 C) and (B,).

        Raises:
            ValueError: There is not one domain for each image, or a domain has fewer than `size` images.
        """
        domains = np.asarray(domains)
        if len(domains) != len(self.mean):
            raise ValueError(f'{len(domains)} domains for {len(self.mean)} images')
        rows, labels = [], []
        for domain in np.unique(domains):
            of_domain = np.flatnonzero(domains == domain)
            if len(of_domain) < size:
                raise ValueError(f'domain {str(domain)!r} has {len(of_domain)} images, and a batch {size}')
            for batch in of_domain[: len(of_domain) // size * size].reshape(-1, size):
                mean = self.mean[batch]
                var = (self.std[batch] ** 2).mean(0) + mean.var(0)
                rows.append(np.concatenate([mean.mean(0), var]))
                labels.append(domain)
        return np.stack(rows), np.asarray(labels)


@dataclass(frozen=True)
class SiteStatistics:
    """Both sides of a site.

    Attributes:
        before: Statistics of the input of the style layer there; at a norm layer, of that layer's input.
        after: Statistics of its output; the same as `before` if there is no layer.
    """

    before: Statistics
    after: Statistics

    def sides(self) -> dict[str, Statistics]:
        """'before' and, if it differs, 'after'."""
        same = np.array_equal(self.before.style, self.after.style)
        return {'before': self.before} if same else {'before': self.before, 'after': self.after}


def collect_statistics(
    model: nn.Module,
    batches: Iterable[Tensor],
    sites: str | Iterable[str],
    forward: Callable[[Tensor], object] | None = None,
    acting: bool = False,
) -> dict[str, SiteStatistics]:
    """Statistics of all images at sites, in evaluation mode and without gradients; the model stays as it was.

    Args:
        model: A module with these sites.
        batches: Images (N, C, H, W) as the model takes them.
        sites: Names from `list_sites`, names of modules, or globs over them.
        forward: Called with each batch instead of the model, if the model is only a part of what has to run.
        acting: Whether style layers act as in training, except those that replace norm layers. They mix the images of a
            batch.

    Returns:
        Statistics by the label of each place, in order: 'stage1', or the module's name if a site means many modules.

    Raises:
        ValueError: An unknown site, a site that does not get a single map, or no image.
    """
    found = find_sites(model, sites)
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    layers = [layer for _, layer in style_layers(model) if acting and not layer.is_norm]
    with ExitStack() as stack:
        stack.enter_context(slots_open(model, found))
        taps = [_Tap(site) for site in settled(model, found)]
        stack.enter_context(torch.no_grad())
        stack.enter_context(eval_mode(model))
        stack.enter_context(override_attr(layers, 'training', True))
        stack.enter_context(_tapped(taps))
        for images in batches:
            (forward or model)(images.to(device))
            for tap in taps:
                tap.end(len(images))
    return {tap.site.label: tap.statistics() for tap in taps}


@dataclass
class _Tap:
    """The numbers of one site."""

    site: Site
    sides: dict[str, list[Statistics]] = field(default_factory=lambda: {'before': [], 'after': []})
    now: dict[str, Statistics] = field(default_factory=dict)  # of this batch; after several calls, of the last one

    def take(self, side: str, x: object) -> None:
        self.now[side] = _reduced(x, self.site)

    def end(self, count: int) -> None:
        """Keep the numbers of a batch that is over.

        Raises:
            ValueError: No map of all its images has arrived.
        """
        for side, kept in self.sides.items():
            found = self.now.get(side, self.now.get('before'))
            if found is None or len(found.mean) != count:
                what = 'nothing' if found is None else f'a map of {len(found.mean)} images'
                raise ValueError(f'site {self.site.label!r}: at {self.site.name!r} arrives {what} for {count} images')
            kept.append(found)
        self.now.clear()

    def statistics(self) -> SiteStatistics:
        if not self.sides['before']:
            raise ValueError('collect_statistics: no image was given')
        return SiteStatistics(**{side: _joined(kept) for side, kept in self.sides.items()})


@contextmanager
def _tapped(taps: Sequence[_Tap]) -> Iterator[None]:
    """Hooks before and after those of style layers, which `attach` places before the hooks of others."""
    handles: list[RemovableHandle] = []
    try:
        for tap in taps:
            module, where = tap.site.module, tap.site.where
            styled = where == 'replace' or attachments_of(module) is not None
            hang = module.register_forward_hook if where == 'after' else module.register_forward_pre_hook
            handles.append(hang(partial(_take, tap, 'before'), prepend=True))
            if styled:
                last = module.register_forward_hook if where == 'replace' else hang
                handles.append(last(partial(_take, tap, 'after')))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _take(tap: _Tap, side: str, module: nn.Module, args: tuple[object, ...], *output: object) -> None:
    """The hook for both sides: as a pre-hook, it gets no output."""
    tap.take(side, *(output or args[:1] or (None,)))


def _reduced(x: object, site: Site) -> Statistics:
    if not isinstance(x, Tensor) or x.dim() < 3:
        what = f'a tensor of shape {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
        raise ValueError(f'site {site.label!r}: at {site.name!r} arrives {what}, expected one map or tokens')
    maps = maps_of(x.detach(), site)
    mean, var = instance_moments(maps)
    norms = maps.float().norm(dim=1).flatten(1)
    chosen = torch.linspace(0, norms.shape[1] - 1, min(POSITIONS, norms.shape[1]), device=x.device).round().long()
    kept = (mean, var.clamp(min=0).sqrt(), norms[:, chosen])
    return Statistics(*(part.float().cpu().numpy() for part in kept))


def _joined(parts: Sequence[Statistics]) -> Statistics:
    """All batches together, with as many positions as the smallest has, since images may differ in size."""
    positions = min(part.norms.shape[1] for part in parts)
    return Statistics(
        np.concatenate([part.mean for part in parts]),
        np.concatenate([part.std for part in parts]),
        np.concatenate([part.norms[:, _spread(part.norms.shape[1], positions)] for part in parts]),
    )


def _spread(count: int, wanted: int) -> np.ndarray:
    """`wanted` indices below `count`, evenly spread."""
    return np.linspace(0, count - 1, wanted).round().astype(int)
