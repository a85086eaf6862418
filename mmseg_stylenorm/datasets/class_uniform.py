"""Class-uniform sampling: half of an epoch consists of crops around classes, equally many for each class.

From the authors' code of RobustNet (Choi et al., CVPR 2021, arXiv:2103.15597; datasets/uniform.py), which SHADE and
WildNet share. The sampler draws centroids, and `RandomScaleCrop` crops around them.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATA_SAMPLERS

from .label_statistics import of_every_label
from .sampling import EndlessSampler

CACHE = 'class_centroids_tile{tile}.json'


class Centroid(int):
    """The index of an image, together with the point around which to crop it.

    Data sets use it as a plain integer; those of mmengine keep it in `results['sample_idx']`.

    Attributes:
        x: Column in the image at its size on disk.
        y: Row, likewise.
        category: The class that was drawn.
    """

    x: int
    y: int
    category: int

    def __new__(cls, image: int, x: int, y: int, category: int) -> 'Centroid':
        index = super().__new__(cls, image)
        index.x, index.y, index.category = x, y, category
        return index

    def __getnewargs__(self) -> tuple[int, int, int, int]:  # type: ignore[override]
        return int(self), self.x, self.y, self.category

    def __repr__(self) -> str:
        return f'Centroid({int(self)}, x={self.x}, y={self.y}, category={self.category})'


class Place(NamedTuple):
    """The point at which a tile of a label shows a class."""

    category: int
    x: int
    y: int


def places(ids: np.ndarray, tile: int) -> list[Place]:
    """Return the centre of mass of each class in each tile of a label, truncated to whole pixels.

    Tiles begin at the top left, row by row; the remainder at the right and at the bottom is ignored. A GTA5 label
    (1914x1052) has a single tile of 1024; a label smaller than a tile has none.

    Args:
        ids: (H, W) of uint8; 255 is not a class.
        tile: Side of a tile in pixels.
    """
    found = []
    rows, columns = (axis.astype(np.float64) for axis in np.divmod(np.arange(tile * tile), tile))
    for top in range(0, ids.shape[0] - tile + 1, tile):
        for left in range(0, ids.shape[1] - tile + 1, tile):
            held = ids[top : top + tile, left : left + tile].ravel()
            pixels = np.bincount(held, minlength=256)
            y, x = (np.bincount(held, axis, minlength=256) for axis in (rows, columns))
            for category in np.flatnonzero(pixels[:255]).tolist():
                n = pixels[category]
                found.append(Place(category, int(x[category] / n) + left, int(y[category] / n) + top))
    return found


def class_centroids(dataset: BaseSegDataset, tile: int, cache: str | None = CACHE) -> list[list[Centroid]]:
    """Return the centroids of each class of an mmseg data set, in the order of its images and their tiles.

    Args:
        dataset: A data set that lists its files itself, so that its index is the number of an image.
        tile: Side of a tile in pixels.
        cache: See `of_every_label`; `{tile}` in it stands for the tile size.

    Raises:
        ValueError: No label holds a class in a whole tile; a label is damaged; the data set has no labels.
    """
    cache = cache.format(tile=tile) if cache else None
    found: list[list[Centroid]] = [[] for _ in dataset.metainfo['classes']]
    doing = f'taking centroids of classes in tiles of {tile}'
    read = of_every_label(dataset, lambda ids: places(ids, tile), cache, doing)
    for image, held in enumerate(read):
        for old, x, y in held:
            new = (dataset.label_map or {}).get(old, old)
            if new < len(found):
                found[new].append(Centroid(image, x, y, new))
    if not any(found):
        raise ValueError(
            f'no label holds a class in a whole tile of {tile}x{tile}; is the tile larger than the labels? Smaller '
            'tiles: tile=, in the settings of the ClassUniformSampler'
        )
    return found


def class_uniform_epoch(
    images: int, centroids: Sequence[Sequence[int]], share: float, permutation: Callable[[int], Sequence[int]]
) -> list[int]:
    """Return the indices of an epoch, images first, then class by class.

    Each class gets int(images * share / classes) centroids; whole images make up the rest of the `images` indices. The
    images, and the centroids of each class, are taken in random order; if more are needed, the same order is repeated.
    A class without centroids is left out, which makes the epoch shorter.

    Args:
        images: Number of images.
        centroids: Centroids of each class.
        share: Share of the epoch that is drawn by classes.
        permutation: Function that returns for n the numbers 0..n - 1 in random order.
    """

    def walk(pool: Sequence[int], count: int) -> list[int]:
        return [pool[k] for k in islice(cycle(permutation(len(pool))), count)]

    each = int(images * share / len(centroids))
    epoch = walk(range(images), images - each * len(centroids))
    for pool in filter(None, centroids):
        epoch += walk(pool, each)
    return epoch


@DATA_SAMPLERS.register_module()
class ClassUniformSampler(EndlessSampler):
    """Draws, without end, epochs of `class_uniform_epoch` in random order, each epoch anew.

        train_dataloader = dict(sampler=dict(type='ClassUniformSampler', share=0.5, tile=1024), ...)

    The indices drawn by class are `Centroid`s, around which `RandomScaleCrop` in the pipeline crops. They need all
    labels to be read once. All processes draw from one common stream.

    Args:
        dataset: An mmseg data set, not a wrapper of data sets, which would lose the centroids.
        share: Share of the epoch that is drawn by classes.
        tile: Side of the tiles in which centroids are computed, in pixels of the labels.
        cache: See `class_centroids`.
        seed: Must be the same on all processes; by default, mmengine synchronises one.

    Raises:
        TypeError: `dataset` is a wrapper.
        ValueError: `share` is outside [0, 1], or `tile` is not positive; see also `class_centroids`.
    """

    def __init__(
        self,
        dataset: BaseSegDataset,
        share: float = 0.5,
        tile: int = 1024,
        cache: str | None = CACHE,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, seed)
        if not 0 <= share <= 1 or tile < 1:
            raise ValueError(f'ClassUniformSampler: expected 0 <= share <= 1 and tile >= 1, got {share} and {tile}')
        if not hasattr(dataset, 'load_data_list'):
            raise TypeError(
                f'ClassUniformSampler: expected a data set that lists its files, got a {type(dataset).__name__}, which '
                'would not tell the pipeline around what to crop'
            )
        self.share, self.centroids = share, class_centroids(dataset, tile, cache)

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        while True:
            epoch = class_uniform_epoch(self.size, self.centroids, self.share, lambda n: rng.permutation(n).tolist())
            yield from (epoch[k] for k in rng.permutation(len(epoch)))
