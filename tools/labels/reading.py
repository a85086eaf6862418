"""The files of image/label pairs: finding, reading and checking them."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from disk import standalone
from labels.table import IGNORE, TO_TRAIN_ID
from PIL import Image

datafiles = standalone('datafiles')
UNREADABLE, by_name, shown_size = datafiles.UNREADABLE, datafiles.by_name, datafiles.shown_size
SUFFIX = '_labelTrainIds.png'
_TRAIN_IDS = np.isin(np.arange(256), [*TO_TRAIN_ID, IGNORE])


class BadPair(Exception):
    """A fault of one image/label pair: its kind, from the report's vocabulary, and details."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f'{kind}: {detail}')
        self.kind, self.detail = kind, detail


@dataclass(frozen=True)
class Pair:
    """The files of a pair: one image and one label, unless something is wrong, and the target to be written."""

    name: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    target: Path


@dataclass(frozen=True)
class Pairs:
    """The folders of a data set's pairs, and the function that reads its labels.

    Args:
        title: Name of the data set.
        images: Folder of the images, below the root; sub-folders are part of the names.
        labels: Folder of the labels, as they are distributed.
        targets: Folder to which labels with train ids are written.
        suffixes: What follows a pair's name in the files of the three folders, in lower or upper case.
        read: Function from a label's path to train ids (H, W) uint8; raises `BadPair`.
    """

    title: str
    images: str
    labels: str
    targets: str
    suffixes: tuple[str, str, str]
    read: Callable[[Path], np.ndarray]

    def pair(self, root: Path, name: str, out: Path | None = None) -> Pair:
        """The files of a pair, as the data set names them."""
        places = zip((self.images, self.labels, self.targets), self.suffixes, strict=True)
        image, label, target = (Path(folder, f'{name}{suffix}') for folder, suffix in places)
        return Pair(name, (root / image,), (root / label,), (out or root) / target)

    def scan(self, root: Path, out: Path | None = None) -> list[Pair]:
        """The pairs of all images and labels, sorted by name.

        Args:
            root: Folder of the data set.
            out: Folder of the targets, if it differs.

        Raises:
            FileNotFoundError: A folder is missing, or holds no such file.
        """
        image, label, target = self.suffixes
        for folder in (root, root / self.images, root / self.labels):
            if not folder.is_dir():
                expected = f'{root}/{self.images}/*{image} and {root}/{self.labels}/*{label}'
                raise FileNotFoundError(f'{folder} is not a folder; expected {expected}')
        images = by_name(_below(root / self.images), image)
        labels = _below(root / self.labels)
        if self.targets == self.labels:
            labels = [name for name in labels if datafiles.without_suffix(name, target) is None]
        found = images, by_name(labels, label)
        if not any(found):
            held = sorted({Path(name).suffix or name for name in _below(root / self.images)})
            there = f'{self.images} holds {", ".join(held) or "nothing"}'
            raise FileNotFoundError(f'no {self.images}/*{image} in {root}; {there}')
        pairs = []
        for name in sorted({*found[0], *found[1]}):
            pair = self.pair(root, name, out)
            images_, labels_ = (
                tuple(root / folder / file for file in half.get(name, ()))
                for folder, half in zip((self.images, self.labels), found, strict=True)
            )
            pairs.append(Pair(name, images_ or pair.images, labels_ or pair.labels, pair.target))
        return pairs


def _below(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in datafiles.visible_files(folder)]


def read_image(path: Path) -> Image.Image:
    """Open and decode an image completely; a missing, broken, empty or too large file becomes a `BadPair`."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # an image of twice the size is an error
            image.load()
    except UNREADABLE as error:
        raise BadPair('unreadable', f'{path}: {error}') from error
    return image


def sole(files: Sequence[Path], half: str) -> Path:
    """The single file of one half of a pair; `BadPair` if there is none, or two that differ in capitals."""
    if len(files) > 1:
        raise BadPair(f'two {half}s', ' and '.join(map(str, files)))
    if not files[0].is_file():
        raise BadPair(f'missing {half}', f'{files[0]} does not exist')
    return files[0]


def read_pair(image_path: Path, label_path: Path, read: Callable[[Path], np.ndarray]) -> np.ndarray:
    """The train ids (H, W) of a label; raises `BadPair` unless it has its image's size as OpenCV loads it."""
    read_image(image_path)
    ids = read(label_path)
    same_size(image_path, label_path, ids)
    return ids


def same_size(image_path: Path, label_path: Path, ids: np.ndarray) -> None:
    """Compare train ids (H, W) with the image's size as OpenCV loads it, from its header; raises `BadPair`."""
    try:
        with Image.open(image_path) as image:
            size, stored = shown_size(image), image.size
    except UNREADABLE as error:
        raise BadPair('unreadable', f'{image_path}: {error}') from error
    if size != ids.shape[::-1]:
        turned = '' if size == stored else f', turned as its EXIF data say (stored as {_by(stored)})'
        raise BadPair('size mismatch', f'{image_path} is {_by(size)}{turned}, {label_path} is {_by(ids.shape[::-1])}')


def _by(size: tuple[int, ...]) -> str:
    return 'x'.join(map(str, size))


def is_current(target: Path, source: Path, image: Path | None = None) -> bool:
    """Whether a target is newer than its sources, complete, made of train ids, and of the image's size, if any."""
    sources = [source] if image is None else [source, image]
    if not target.is_file() or target.stat().st_mtime_ns < max(path.stat().st_mtime_ns for path in sources):
        return False
    ids = read_train_ids(target)
    try:
        if ids is None or image is None:
            return ids is not None
        with Image.open(image) as picture:  # reads the header only
            return shown_size(picture) == ids.shape[::-1]
    except UNREADABLE:
        return False


def read_train_ids(path: Path) -> np.ndarray | None:
    """The train ids (H, W) in a file that a tool has written, or None if the file is not usable."""
    try:
        image = read_image(path)
    except BadPair:
        return None
    ids = np.asarray(image)
    return ids if image.mode == 'L' and _TRAIN_IDS[ids].all() else None
