"""Which images are drawn, by the classes that their labels hold.

What the labels hold is known from `class_pixels`, which reads all of them once and keeps what it found in a file.
"""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import broadcast_object_list, get_dist_info, is_main_process, sync_random_seed
from mmengine.logging import print_log
from mmseg.registry import DATA_SAMPLERS
from PIL import Image
from torch.utils.data import Sampler

from timm_stylenorm.checkpoints import atomic_write

from .loading import IGNORE

CACHE = 'class_pixels.json'


def labelled_part(dataset: Any) -> Any:
    """The data set with labels inside of wrappers: the source of a `UDADataset`, the part of a `RareClassDataset`."""
    while not hasattr(dataset, 'load_data_list'):
        inner = getattr(dataset, 'source', None) or getattr(dataset, 'dataset', None)
        if inner is None:
            raise TypeError(f'a {type(dataset).__name__} does not list its labels, as data sets of mmseg do')
        dataset = inner
    return dataset


def _count(file: str) -> list[int]:
    """Pixels of each id below 255, up to the last that occurs."""
    try:
        with Image.open(file) as image:
            ids = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'label {file} cannot be decoded ({error}); is it truncated?') from error
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f'label {file} has shape {ids.shape} of {ids.dtype}, expected (H, W) train ids of uint8')
    return np.trim_zeros(np.bincount(ids.ravel(), minlength=256)[:IGNORE], 'b').tolist()


def _stamp(file: str) -> list[int]:
    state = os.stat(file)
    return [state.st_size, state.st_mtime_ns]


def _known(cache: Path) -> dict[str, Any]:
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _counted(files: Sequence[str], cache: Path | None) -> list[list[int]]:
    """`_count` of all files; those that the cache holds, and that have not changed since, are not read again."""
    root = cache.parent if cache else Path()
    names = [os.path.relpath(file, root) for file in files]
    stamps, known = [_stamp(file) for file in files], _known(cache) if cache else {}
    todo = [k for k, name in enumerate(names) if known.get(name, [None])[0] != stamps[k]]
    if todo:
        print_log(f'counting the pixels of each class in {len(todo)} labels', 'current')
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for k, counts in zip(todo, pool.map(_count, [files[k] for k in todo]), strict=True):
                known[names[k]] = [stamps[k], counts]
        if cache:
            try:
                with atomic_write(cache) as part:
                    part.write_text(json.dumps(known))
            except OSError as error:
                print_log(f'{cache} cannot be written, the next run counts again: {error}', 'current')
    return [known[name][1] for name in names]


def class_pixels(dataset: Any, cache: str | None = CACHE) -> np.ndarray:
    """Pixels of each class in the label of each image, (N, K) of int64, at the size of the label's file.

    Labels are read once, in threads; what they hold is kept below `data_root` in the file `cache`, for the next run.
    Of several processes the first one reads. Classes are those of the data set's `metainfo`, so that a subset of
    mmseg's classes is counted by its own ids.

    Args:
        dataset: Of mmseg, with labels; may be in a wrapper, see `labelled_part`.
        cache: Name of the file; None reads all labels every time.

    Raises:
        ValueError: A label is damaged or no map of train ids; the data set has no labels.
    """
    dataset = labelled_part(dataset)
    if not is_main_process():
        received: list[Any] = [None]
        broadcast_object_list(received)
        return received[0]
    files = [dataset.get_data_info(k).get('seg_map_path') for k in range(len(dataset))]
    if None in files:
        raise ValueError(f'{type(dataset).__name__}: images without labels cannot be drawn by their classes')
    root = getattr(dataset, 'data_root', None)
    found = np.zeros((len(files), len(dataset.metainfo['classes'])), np.int64)
    for row, counts in zip(found, _counted(files, Path(root) / cache if root and cache else None), strict=True):
        for old, count in enumerate(counts):
            new = (dataset.label_map or {}).get(old, old)
            if new < len(row):
                row[new] += count
    broadcast_object_list([found])
    return found


class EndlessSampler(Sampler):
    """Draws without end; each process takes every n-th draw of one common stream. A subclass says what is drawn.

    Args:
        dataset: To draw from.
        seed: The same on all processes; mmengine's by default.
    """

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.size, self.start = len(dataset), 0

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        """Indices of all processes, without end."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        own = itertools.islice(self.draws(np.random.default_rng(self.seed)), self.rank, None, self.world_size)
        return itertools.islice(own, self.start, None)

    def skip(self, num_samples: int) -> None:
        """Starts after the first `num_samples` of this process; used on resume."""
        self.start = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Nothing to do: it never ends."""


@DATA_SAMPLERS.register_module()
class ClassBalancedSampler(EndlessSampler):
    """FADA's draws of source images: a class is the likelier the less of it was drawn, then an image that shows it.

        P(c) proportional to 1 / log(1.01 + s_c),    s_c = n_c / sum of n

    n_c images with class c were drawn in this block of draws; an image counts for all classes that it shows, by one
    pixel or more. The images of a class are gone through in random order, which is drawn anew when they are used up.
    From the authors' data sets (core/datasets/gta5.py and synthia.py); Wang et al., ECCV 2020, arXiv:2007.09222.
    Differs: their list of the whole training is shuffled, this shuffles a block at a time; from its second round on
    their code leaves out one image of each class, and stops at a class with a single image. Classes that no image
    shows are left out, which stops theirs.

    Args:
        dataset: With labels, or a `UDADataset`, whose source counts.
        block: Draws after which counting starts again.
        cache: See `class_pixels`.
        seed: The same on all processes.

    Raises:
        ValueError: No image shows any class; `block` is below 1.
    """

    def __init__(self, dataset: Any, block: int = 3000, cache: str | None = CACHE, seed: int | None = None) -> None:
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
