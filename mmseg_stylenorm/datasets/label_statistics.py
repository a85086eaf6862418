"""Statistics of a data set's labels, which are read once and cached in a file beside them."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from PIL import Image

from timm_stylenorm.datafiles import UNREADABLE
from timm_stylenorm.files import atomic_write

T = TypeVar('T')
Measure = Callable[[np.ndarray], T]
EVERY = 1000  # labels between two writes of the cache, so that an interrupted count can go on


def labelled_part(dataset: object) -> BaseSegDataset:
    """Return the labelled data set in wrappers: the `source` of `UDADataset`, the `dataset` of `RareClassDataset`."""
    while not hasattr(dataset, 'load_data_list'):
        inner = getattr(dataset, 'source', None) or getattr(dataset, 'dataset', None)
        if inner is None:
            raise TypeError(f'a {type(dataset).__name__} does not list its labels, as data sets of mmseg do')
        dataset = inner
    return dataset


def read_ids(file: str) -> np.ndarray:
    """Return the ids in a label, (H, W) of uint8.

    Raises:
        ValueError: The label is damaged, or is not a map of single bytes.
    """
    try:
        with Image.open(file) as image:
            ids = np.asarray(image)
    except UNREADABLE as error:
        raise ValueError(f'label {file} cannot be decoded ({error}); is it truncated?') from error
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f'label {file} has shape {ids.shape} of {ids.dtype}, expected (H, W) train ids of uint8')
    return ids


def of_every_label(dataset: object, measure: Measure[T], cache: str | None, doing: str) -> list[T]:
    """Return `measure(ids)` for the label of each image, at the size of the label file, in the order of the images.

    Labels are read once, in threads. The results are cached in `data_root`, for the next run and for other splits of
    the same files; a label whose file size or modification time has changed is read again. Of several processes, only
    the first one reads.

    Args:
        dataset: An mmseg data set with labels; may be in a wrapper, see `labelled_part`.
        measure: Function of the ids, (H, W) of uint8, whose result JSON stores unchanged.
        cache: Name of the cache file, a different one for each measure. With None, all labels are read every time.
        doing: Text for the log, such as 'counting pixels'.

    Raises:
        ValueError: A label is damaged or is not a map of ids, or the data set has no labels. Raised in all processes.
        OSError: A label file is missing.
    """
    labelled = labelled_part(dataset)
    received: list = [None, None]
    if is_main_process():
        try:
            received = [_of_files(_label_files(labelled), measure, _place(labelled, cache), doing), None]
        except (OSError, ValueError) as error:
            received = [None, error]
    broadcast_object_list(received)
    if received[1] is not None:
        raise received[1]
    return received[0]


def _label_files(dataset: BaseSegDataset) -> list[str]:
    files = [dataset.get_data_info(k).get('seg_map_path') for k in range(len(dataset))]
    if None in files:
        raise ValueError(f'{type(dataset).__name__}: images without labels cannot be drawn by their classes')
    return files


def _place(dataset: BaseSegDataset, cache: str | None) -> Path | None:
    root = getattr(dataset, 'data_root', None)
    return Path(root) / cache if root and cache else None


def _of_files(files: Sequence[str], measure: Measure[T], cache: Path | None, doing: str) -> list[T]:
    root = cache.parent if cache else Path()
    names = [os.path.relpath(file, root) for file in files]
    stamps, known = [_stamp(file) for file in files], _known(cache) if cache else {}
    todo = [k for k, name in enumerate(names) if known.get(name, [None])[0] != stamps[k]]
    if todo:
        print_log(f'{doing} in {len(todo)} labels', 'current')
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(todo), EVERY):
            part = todo[begin : begin + EVERY]
            for k, value in zip(part, pool.map(lambda k: measure(read_ids(files[k])), part), strict=True):
                known[names[k]] = [stamps[k], value]
            if cache and not _write(cache, known):
                cache = None
    return [known[name][1] for name in names]


def _stamp(file: str) -> list[int]:
    state = os.stat(file)
    return [state.st_size, state.st_mtime_ns]


def _known(cache: Path) -> dict[str, list]:
    """Return the content of the cache file; empty if it is damaged."""
    try:
        known = json.loads(cache.read_text())
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 2}


def _write(cache: Path, known: dict[str, list]) -> bool:
    try:
        with atomic_write(cache) as part:
            part.write_text(json.dumps(known))
    except OSError as error:
        print_log(f'{cache} cannot be written, the next run reads the labels again: {error}', 'current')
        return False
    return True
