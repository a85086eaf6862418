"""Labels to train ids, pair by pair: what the converters of data sets have in common.

A run that was stopped goes on where it stopped. Every bad pair is listed, with its reason, in `prepare_report.json`;
the exit code is 1 if there is any. With --skip-bad it is 0, and `splits/good.txt` lists the good pairs, for `ann_file`.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from disk import claimed, write_text
from labels.table import IGNORE, TO_TRAIN_ID, save_png
from PIL import Image
from processes import pool
from tqdm import tqdm

SUFFIX = '_labelTrainIds.png'
DONE, KEPT = 'converted', 'already there'
_TRAIN_IDS = np.isin(np.arange(256), [*TO_TRAIN_ID, IGNORE])


class BadPair(Exception):
    """What is wrong with one image/label pair: a kind from the report's vocabulary, and the details."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f'{kind}: {detail}')
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Pairs:
    """Where the pairs of a data set are, and how its labels are read.

    Args:
        title: Name of the data set.
        images: Folder of the images, below the root.
        labels: Folder of the labels, as they are distributed.
        targets: Folder of the labels with train ids, which are written.
        suffixes: What follows a pair's name in the files of the three folders.
        read: Path of a label to train ids (H, W) uint8; raises `BadPair`.
    """

    title: str
    images: str
    labels: str
    targets: str
    suffixes: tuple[str, str, str]
    read: Callable[[Path], np.ndarray]

    def files(self, root: Path, name: str) -> tuple[Path, Path, Path]:
        """Image, label and target of a pair."""
        places = zip((self.images, self.labels, self.targets), self.suffixes, strict=True)
        image, label, target = (root / folder / f'{name}{suffix}' for folder, suffix in places)
        return image, label, target

    def names(self, root: Path) -> list[str]:
        """The sorted names of all images and labels; `FileNotFoundError` when a folder is missing, or none is there."""
        image, label, target = self.suffixes
        for folder in (root, root / self.images, root / self.labels):
            if not folder.is_dir():
                expected = f'{root}/{self.images}/*{image} and {root}/{self.labels}/*{label}'
                raise FileNotFoundError(f'{folder} is not a folder; expected {expected}')
        images = {path.name.removesuffix(image) for path in (root / self.images).glob(f'*{image}')}
        labels = {path.name for path in (root / self.labels).glob(f'*{label}')}
        if self.targets == self.labels:
            labels = {name for name in labels if not name.endswith(target)}
        if not (images or labels):
            held = sorted({path.suffix or path.name for path in (root / self.images).iterdir()})
            found = f'{self.images} holds {", ".join(held) or "nothing"}'
            raise FileNotFoundError(f'no {self.images}/*{image} in {root}; {found}')
        return sorted(images | {name.removesuffix(label) for name in labels})


def read_image(path: Path) -> Image.Image:
    """Open and decode a PNG completely; a missing or broken file becomes a `BadPair`."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # PIL reports broken PNGs as any of these
        raise BadPair('unreadable', f'{path}: {error}') from error
    return image


def convert_pair(pairs: Pairs, root: Path, name: str, overwrite: bool = False) -> str:
    """Check one pair and write its train ids; returns DONE or KEPT, raises `BadPair`."""
    image_path, label_path, target = pairs.files(root, name)
    for path, half in ((image_path, 'image'), (label_path, 'label')):
        if not path.is_file():
            raise BadPair(f'missing {half}', f'{path} does not exist')
    if not overwrite and _is_current(target, image_path, label_path):
        return KEPT
    size = read_image(image_path).size
    ids = pairs.read(label_path)
    if size != ids.shape[::-1]:
        raise BadPair('size mismatch', f'{image_path} is {_by(size)}, {label_path} is {_by(ids.shape[::-1])}')
    save_png(target, ids)
    return DONE


def _by(size: tuple[int, ...]) -> str:
    return 'x'.join(map(str, size))


def _is_current(target: Path, *sources: Path) -> bool:
    """Whether the target is newer than its sources, whole, of the image's size and made of train ids."""
    if not target.is_file() or target.stat().st_mtime_ns < max(path.stat().st_mtime_ns for path in sources):
        return False
    ids = read_train_ids(target)
    try:
        with Image.open(sources[0]) as picture:  # reads the header only
            return ids is not None and picture.size == ids.shape[::-1]
    except OSError:
        return False


def read_train_ids(path: Path) -> np.ndarray | None:
    """The train ids (H, W) in a file that a tool wrote before, or None where that file is of no use."""
    try:
        image = read_image(path)
    except BadPair:
        return None
    ids = np.asarray(image)
    return ids if image.mode == 'L' and _TRAIN_IDS[ids].all() else None


def _attempt(pairs: Pairs, root: Path, overwrite: bool, name: str) -> tuple[str, str, str]:
    """`convert_pair` for a worker process: (name, outcome, detail)."""
    try:
        return name, convert_pair(pairs, root, name, overwrite), ''
    except BadPair as bad:
        return name, bad.kind, bad.detail


def run_parallel(work: Callable, items: Iterable, workers: int, title: str) -> Iterator:
    """Map over items in order with a progress bar, in this process when one worker is asked for."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        yield from tqdm(map(work, items), total=len(items), desc=title)
        return
    with pool(min(workers, len(items))) as processes:
        chunk = max(1, min(16, len(items) // (4 * workers)))
        yield from tqdm(processes.map(work, items, chunksize=chunk), total=len(items), desc=title)


def cpu_count() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _report(root: Path, results: list[tuple[str, str, str]]) -> tuple[list[str], list[dict[str, str]]]:
    """Write prepare_report.json and print the summary; returns the good names and the bad pairs."""
    good = [name for name, outcome, _ in results if outcome in (DONE, KEPT)]
    bad = [{'name': name, 'kind': kind, 'detail': detail} for name, kind, detail in results if kind not in (DONE, KEPT)]
    counts = Counter(outcome for _, outcome, _ in results)
    report = root / 'prepare_report.json'
    write_text(report, json.dumps({'pairs': len(results), 'counts': counts, 'bad': bad}, indent=2) + '\n')
    print(f'{len(results)} pairs: ' + ', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items())))
    for entry in bad[:20]:
        print(f'  {entry["kind"]}: {entry["detail"]}')
    if len(bad) > 20:
        print(f'  ... and {len(bad) - 20} more in {report}')
    return good, bad


def convert(pairs: Pairs, root: Path, workers: int, overwrite: bool = False, skip_bad: bool = False) -> int:
    """Convert all pairs below a root; 0 when every one is good, or the bad ones are left out on request."""
    names = pairs.names(root)
    with claimed(root, 'a converter'):
        return _convert(pairs, root, names, workers, overwrite, skip_bad)


def _convert(pairs: Pairs, root: Path, names: list[str], workers: int, overwrite: bool, skip_bad: bool) -> int:
    work = partial(_attempt, pairs, root, overwrite)
    good, bad = _report(root, list(run_parallel(work, names, workers, f'{pairs.title} labels')))
    if not good:
        print(f'error: no usable image/label pair under {root}', file=sys.stderr)
        return 1
    if bad and not skip_bad:
        print(f'{len(bad)} bad pairs, listed in the report; --skip-bad writes a split without them')
        return 1
    if skip_bad:
        split = root / 'splits' / 'good.txt'
        split.parent.mkdir(exist_ok=True)
        write_text(split, '\n'.join(good) + '\n')
        print(f'{len(good)} good pairs listed in {split}')
    return 0
