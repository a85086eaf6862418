"""The picture of the demo: image, labels and each method's prediction side by side, rows from both domains."""

from pathlib import Path

import numpy as np
from disk import save_figure
from PIL import Image

ROWS = 2  # of each domain
IMAGES = {'seen': 'gta5/images', 'unseen': 'cityscapes/leftImg8bit/val'}  # as predictions are filed


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


def draw(out: Path, data: Path, methods: list[str], seed: int) -> Path:
    """Writes `out/demo.png` from the predictions that the demo's runs left in `out`."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch
    from mmseg.datasets import CityscapesDataset

    palette = np.array(CityscapesDataset.METAINFO['palette'], np.uint8)
    classes = CityscapesDataset.METAINFO['classes']
    titles = ['image', 'labels', *methods]
    fig, axes = plt.subplots(2 * ROWS, len(titles), figsize=(3.2 * len(titles), 3.3 * ROWS + 0.9), squeeze=False)
    for block, (domain, pairs) in enumerate(_pairs(data).items()):
        step = max(len(pairs) // ROWS, 1)
        for k, (image, label) in enumerate(pairs[::step][:ROWS]):
            truth = np.asarray(Image.open(label))
            panels = [np.asarray(Image.open(image).convert('RGB')), colour(truth, palette)]
            for method in methods:
                folder = out / f'{method}-seed{seed}' / 'predictions' / domain
                file = folder / image.relative_to(data / IMAGES[domain]).with_suffix('.png')
                panels.append(colour(np.asarray(Image.open(file)), palette))
            for ax, panel in zip(axes[block * ROWS + k], panels, strict=True):
                ax.imshow(panel)
                ax.set(xticks=[], yticks=[])
            name = 'game (seen)' if domain == 'seen' else 'other domain (unseen)'
            axes[block * ROWS + k][0].set_ylabel(name, fontsize=8)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    handles = [Patch(color=c / 255, label=n) for c, n in zip(palette, classes, strict=True)]
    fig.legend(handles=handles, loc='lower center', ncol=10, fontsize=8, frameon=False)
    fig.tight_layout(rect=(0, 0.07, 1, 1))
    save_figure(fig, out / 'demo.png', dpi=100)
    plt.close(fig)
    return out / 'demo.png'
