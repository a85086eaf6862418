"""Samplers that draw images by the classes in their labels."""

import itertools
from collections.abc import Iterator, Sized

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from mmseg.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from .label_statistics import labelled_part, of_every_label
from .loading import IGNORE

CACHE = 'class_pixels.json'


def _count(ids: np.ndarray) -> list[int]:
    """Return the pixels of each id below 255, up to the last id that occurs."""
    return np.trim_zeros(np.bincount(ids.ravel(), minlength=256)[:IGNORE], 'b').tolist()


def class_pixels(dataset: object, cache: str | None = CACHE) -> np.ndarray:
    """Return pixels of each class in each image's label, (N, K) of int64, at the size of the label's file.

    The classes are those of the data set's `metainfo`: a subset of mmseg's classes is counted by its own ids.

    Args:
        dataset: An mmseg data set with labels; may be in a wrapper, see `labelled_part`.
        cache: See `of_every_label`.

    Raises:
        ValueError: A label is damaged or is not a map of train ids, or the data set has no labels.
    """
    counted = of_every_label(dataset, _count, cache, 'counting the pixels of each class')
    labelled = labelled_part(dataset)
    found = np.zeros((len(counted), len(labelled.metainfo['classes'])), np.int64)
    for row, counts in zip(found, counted, strict=True):
        for old, count in enumerate(counts):
            new = (labelled.label_map or {}).get(old, old)
            if new < len(row):
                row[new] += count
    return found


class EndlessSampler(Sampler):
    """Draws without end: each of n processes takes every n-th draw of a common stream that a subclass defines.

    Args:
        dataset: Data set to draw from.
        seed: Must be the same on all processes; by default, mmengine synchronises one.
    """

    def __init__(self, dataset: Sized, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.size, self.start = len(dataset), 0

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield the indices for all processes, without end."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        own = itertools.islice(self.draws(np.random.default_rng(self.seed)), self.rank, None, self.world_size)
        return itertools.islice(own, self.start, None)

    def skip(self, num_samples: int) -> None:
        """Skip the first `num_samples` draws of this process; used when resuming."""
        self.start = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Does nothing, since the stream has no epochs."""


@DATA_SAMPLERS.register_module()
class ClassBalancedSampler(EndlessSampler):
    """FADA's sampling of source images: draws a class, more likely if drawn rarely so far, then an image of it.

        P(c) proportional to 1 / log(1.01 + s_c),    s_c = n_c / sum of n

    n_c is the number of images with class c drawn in this block; an image counts for every class of which it shows at
    least one pixel. The images of a class are taken in random order, and reshuffled when they are used up. From the
    authors' data sets (core/datasets/gta5.py and synthia.py); Wang et al., ECCV 2020, arXiv:2007.09222. Differences:
    their code shuffles the list of the whole training, this sampler one block at a time. From the second round on,
    their code leaves out one image of each class, and it fails if a class has a single image or none; here, all images
    are used, and classes that no image shows are left out.

    Args:
        dataset: A data set with labels, or a `UDADataset`, whose source is used.
        block: Number of draws after which counting starts again.
        cache: See `class_pixels`.
        seed: Must be the same on all processes.

    Raises:
        ValueError: No image shows any class; `block` is below 1.
    """

    def __init__(self, dataset: Sized, block: int = 3000, cache: str | None = CACHE, seed: int | None = None) -> None:
        super().__init__(dataset, seed)
        if block < 1:
            raise ValueError(f'ClassBalancedSampler: expected a block of 1 draw or more, got {block}')
        self.block = block
        self.shown = class_pixels(dataset, cache).astype(bool)
        if not self.shown.any():
            raise ValueError('ClassBalancedSampler: no label holds a class')

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        present = np.asarray(self.shown.any(0))
        queues: list[list[int]] = [[] for _ in present]
        while True:
            drawn, counts = np.empty(self.block, np.int64), np.zeros(len(present))
            for k in range(self.block):
                weights = present / np.log(1.01 + counts / max(counts.sum(), 1))
                c = rng.choice(len(present), p=weights / weights.sum())
                queues[c] = queues[c] or rng.permutation(np.flatnonzero(self.shown[:, c])).tolist()
                drawn[k] = queues[c].pop()
                counts += self.shown[drawn[k]]
            yield from rng.permutation(drawn).tolist()
