"""What the labels of a data set hold: read once, and kept in a file beside them."""

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
EVERY = 1000  # labels after which the file is written, so that a count that was stopped goes on


def labelled_part(dataset: object) -> BaseSegDataset:
    """The data set with labels inside of wrappers: the source of a `UDADataset`, the part of a `RareClassDataset`."""
    while not hasattr(dataset, 'load_data_list'):
        inner = getattr(dataset, 'source', None) or getattr(dataset, 'dataset', None)
        if inner is None:
            raise TypeError(f'a {type(dataset).__name__} does not list its labels, as data sets of mmseg do')
        dataset = inner
    return dataset


def read_ids(file: str) -> np.ndarray:
    """The ids in a label, (H, W) of uint8.

    Raises:
        ValueError: It is damaged, or no map of single bytes.
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
    """What `measure` says of the ids in the label of each image, at the size of its file; in the order of the images.

    Labels are read once, in threads. What they hold is kept below `data_root`, for the next run and for other splits of
    the same files; a label whose size or time has changed is read again. Of several processes the first one reads.

    Args:
        dataset: Of mmseg, with labels; may be in a wrapper, see `labelled_part`.
        measure: From ids, (H, W) of uint8, to what JSON keeps as it is.
        cache: Name of the file; another measure needs another one. None reads all labels every time.
        doing: What to write into the log, as 'counting pixels'.

    Raises:
        ValueError: A label is damaged or no map of ids; the data set has no labels. In all processes.
        OSError: A label is not there.
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
    """What the file holds; nothing where it is damaged."""
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
