"""Image, labels and the prediction of each run side by side, on toy streets."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from disk import save_figure
from PIL import Image

if TYPE_CHECKING:
    from bench.plan import Run

IMAGES = {'seen': 'gta5/images', 'unseen': 'cityscapes/leftImg8bit/val'}  # the folders in which predictions are written


def _pairs(data: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Image and label files of the held-out parts, in the data sets' order."""
    game = data / 'gta5'
    names = (game / 'splits/val.txt').read_text().split()
    seen = [(game / f'images/{n}.png', game / f'labels/{n}_labelTrainIds.png') for n in names]
    city = data / 'cityscapes'
    unseen = [
        (image, city / 'gtFine/val' / image.parent.name / image.name.replace('leftImg8bit', 'gtFine_labelTrainIds'))
        for image in sorted((city / 'leftImg8bit/val').rglob('*_leftImg8bit.png'))
    ]
    return {'seen': seen, 'unseen': unseen}


def colour(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Train ids (H, W) to RGB (H, W, 3); ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def draw(file: Path, data: Path, runs: Sequence['Run'], domains: Sequence[str] = tuple(IMAGES), rows: int = 2) -> None:
    """Writes a PNG with the predictions of toy streets in the folders of runs.

    Args:
        file: Path of the PNG.
        data: Folder of the toy streets.
        runs: The runs, a column each.
        domains: Domains from which images are taken.
        rows: Number of images of each domain.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from mmseg.datasets import CityscapesDataset

    palette = np.array(CityscapesDataset.METAINFO['palette'], np.uint8)
    titles = ['image', 'labels', *(run.name for run in runs)]
    height = rows * len(domains)
    fig, axes = plt.subplots(height, len(titles), figsize=(3.2 * len(titles), 1.65 * height + 0.9), squeeze=False)
    every = _pairs(data)
    shown = [
        (domain, *pair) for domain in domains for pair in every[domain][:: max(len(every[domain]) // rows, 1)][:rows]
    ]
    for line, (domain, image, label) in zip(axes, shown, strict=False):
        name = image.relative_to(data / IMAGES[domain]).with_suffix('.png')
        files = [label, *(run.folder / 'predictions' / domain / name for run in runs)]
        panels = [np.asarray(Image.open(image).convert('RGB'))]
        panels += [colour(np.asarray(Image.open(part)), palette) for part in files]
        for ax, panel in zip(line, panels, strict=True):
            ax.imshow(panel)
        line[0].set_ylabel('game (seen)' if domain == 'seen' else 'other domain (unseen)', fontsize=8)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    handles = [
        Patch(color=c / 255, label=n) for c, n in zip(palette, CityscapesDataset.METAINFO['classes'], strict=True)
    ]
    fig.legend(handles=handles, loc='lower center', ncol=10, fontsize=8, frameon=False)
    fig.tight_layout(rect=(0, 0.07, 1, 1))
    save_figure(fig, file, dpi=100)
    plt.close(fig)
