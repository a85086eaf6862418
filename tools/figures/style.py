"""Pictures of the style of domains at sites of networks: projections, norms, and accuracies of a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from disk import save_figure
from figures.cams import shortened

matplotlib.use('Agg')
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from timm_stylenorm.evaluation.statistics import SiteStatistics, Statistics

PANEL, EDGE, TITLE, LEGEND = 2.5, 0.55, 0.25, 0.3  # inches
COLOURS = plt.get_cmap('tab10').colors + plt.get_cmap('Dark2').colors


class Measured(NamedTuple):
    """The measurements of one network.

    Attributes:
        name: Name of the network.
        places: Statistics at the drawn sites, by name.
        layers: Names of the places on the line of the probe.
        probe: Accuracies 'before' and, if there is a style layer, 'after' each place.
    """

    name: str
    places: Mapping[str, SiteStatistics]
    layers: Sequence[str]
    probe: Mapping[str, Mapping[str, float]]


def _tsne(features: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(30, (len(features) - 1) / 3), init='pca', random_state=seed).fit_transform(features)


def _pca(features: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, random_state=seed).fit_transform(features)


PROJECTIONS: dict[str, tuple[str, Callable[[np.ndarray, int], np.ndarray]]] = {
    'tsne': ('t-SNE', _tsne),
    'pca': ('PCA', _pca),
}


def draw_styles(out: Path, models: Sequence[Measured], domains: np.ndarray, projection: str, seed: int) -> None:
    """Draws each image as a point, by the standardised mean and deviation of all channels.

    Args:
        out: Path of the PNG.
        models: A row for each, or two if it has style layers; columns are sites.
        domains: Domain of each image, (N,).
        projection: A key of `PROJECTIONS`.
        seed: Seed of the projection.
    """
    from sklearn.preprocessing import StandardScaler

    title, project = PROJECTIONS[projection]

    def panel(ax: Axes, found: Statistics) -> None:
        points = project(StandardScaler().fit_transform(found.style), seed)
        for colour, domain in _colours(domains):
            ax.scatter(*points[domains == domain].T, s=9, alpha=0.7, color=colour, label=domain, linewidths=0)
        ax.set(xticks=[], yticks=[])

    _grid(out, models, panel, f'mean and deviation of channels, {title}')


def draw_norms(out: Path, models: Sequence[Measured], domains: np.ndarray) -> None:
    """Draws the distribution by domain of the L2 norms over channels at positions; arguments as in `draw_styles`."""

    def panel(ax: Axes, found: Statistics) -> None:
        low, high = np.quantile(found.norms, [0.001, 0.999])
        bins = np.linspace(low, max(high, low + 1e-3), 60)
        for colour, domain in _colours(domains):
            values = found.norms[domains == domain].ravel()
            ax.hist(values, bins, density=True, histtype='step', color=colour, label=domain, linewidth=1.2)
        ax.set(yticks=[])
        ax.tick_params(labelsize=7)

    _grid(out, models, panel, 'norms over the channels at positions')


def draw_probe(out: Path, models: Sequence[Measured], domains: int) -> None:
    """Draws the accuracy of the probe before each layer, a line for each model.

    Args:
        out: Path of the PNG.
        models: Networks with `layers` and `probe`.
        domains: Number of domains, whose inverse is the chance level.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.6))
    for colour, model in zip(cycle(COLOURS), models, strict=False):
        values = [100 * model.probe[name]['before'] for name in model.layers]
        ax.plot(
            range(1, len(values) + 1),
            values,
            'o-',
            color=colour,
            markersize=3,
            linewidth=1.2,
            label=shortened(model.name, 44),
        )
    ax.axhline(100 / domains, color='#777777', linestyle='--', linewidth=1, label='chance')
    longest = max(models, key=lambda model: len(model.layers)).layers
    ends = sorted({0, len(longest) // 2, len(longest) - 1})
    ax.set_xticks([i + 1 for i in ends], [f'{i + 1}\n{longest[i]}' for i in ends], fontsize=8)
    ax.set(xlabel='layer', ylabel='domain told, in percent', ylim=(0, 104))
    ax.spines[['top', 'right']].set_visible(False)
    fig.tight_layout(rect=(0, 0, 1, 1 - 0.06 * (len(models) // 2 + 1)))
    fig.legend(fontsize=8, frameon=False, loc='upper center', ncol=2)
    save_figure(fig, out, dpi=130)
    plt.close(fig)


def _colours(domains: np.ndarray) -> Iterator[tuple[Any, str]]:
    return zip(cycle(COLOURS), np.unique(domains), strict=False)


def _grid(out: Path, models: Sequence[Measured], panel: Callable[[Axes, Statistics], None], title: str) -> None:
    """Draws panels of all places, with the accuracy of the probe, and one legend."""
    rows = [(model, side) for model in models for side in _sides(model)]
    width = max(len(model.places) for model in models)
    size = width * PANEL + EDGE, len(rows) * PANEL + TITLE + LEGEND
    fig, axes = plt.subplots(len(rows), width, figsize=size, squeeze=False)
    for line, (model, side) in zip(axes, rows, strict=True):
        for ax in line[len(model.places) :]:
            ax.axis('off')
        for ax, (name, place) in zip(line, model.places.items(), strict=False):
            panel(ax, place.sides().get(side, place.before))
            score = model.probe[name].get(side, model.probe[name]['before'])
            ax.set_title(f'{name}: {100 * score:.0f} % told', fontsize=8)
        head = '\n'.join(shortened(part, 40) for part in model.name.replace(' (', '\n(').split('\n'))
        line[0].set_ylabel(f'{head}\n{side} the layer' if len(_sides(model)) > 1 else head, fontsize=8)
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.suptitle(title, fontsize=9, y=1 - 0.05 / size[1], va='top')
    columns = min(len(names), 2 * width)
    fig.legend(handles, names, loc='lower center', ncol=columns, fontsize=8, frameon=False, markerscale=2)
    fig.tight_layout(rect=(0, LEGEND / size[1], 1, 1))
    save_figure(fig, out, dpi=120)
    plt.close(fig)


def _sides(model: Measured) -> list[str]:
    """The sides, 'before' and 'after', that any of the model's places has."""
    return list({side: None for place in model.places.values() for side in place.sides()})
