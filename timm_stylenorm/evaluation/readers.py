"""Images of classes that are not in folders: in a tar file, or read by timm's readers `hfds/` and `wds/`."""

from __future__ import annotations

import importlib.util
import itertools
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image
from timm.data import create_reader
from torch.utils.data import IterableDataset

from ..datafiles import drop_hidden
from .images import Cell, Item, Reader, Shown, read_rgb, stamp_of

TimmReader = Any  # the attributes of timm's readers are not those of their base class
PACKAGES = {'hfds': 'datasets', 'hfids': 'datasets', 'wds': 'webdataset', 'tfds': 'tensorflow_datasets'}
# Names of the classes; for each image the number of its class, its own name, and its reader
Listed = tuple[tuple[str, ...], list[tuple[int, str, Reader]]]


def check_installed(kind: str, name: str) -> None:
    """Raise an ImportError that names the package to install, if the one for a kind of data set is missing."""
    if kind in PACKAGES and importlib.util.find_spec(PACKAGES[kind]) is None:
        package = PACKAGES[kind].replace('_', '-')
        raise ImportError(f"data set '{name}' needs the package '{package}': pip install {package}")


@dataclass(frozen=True)
class Source:
    """A data set that one of timm's readers reads.

    Attributes:
        kind: 'hfds' for Hugging Face's data sets, 'wds' for the shards of a webdataset.
        name: Name or folder of the data set; for shards always their folder.
        split: Its split; for shards also their names and the number of images, 'val-{00..63}.tar|50000'.
    """

    kind: str
    name: str
    split: str

    def __str__(self) -> str:
        return f'{self.kind}/{self.name}:{self.split}'

    def open(self) -> TimmReader:
        """timm's reader.

        Raises:
            ImportError: The package that it needs is not installed.
            FileNotFoundError: There is no folder of shards.
            ValueError: There is no such data set or split.
        """
        check_installed(self.kind, str(self))
        shards = self.kind == 'wds'
        if shards and '://' not in self.name and not Path(self.name).is_dir():
            raise FileNotFoundError(f"'{self}': no folder '{self.name}' of shards")
        name, root = (f'{self.kind}/', self.name) if shards else (f'{self.kind}/{self.name}', None)
        try:
            return create_reader(name, root, self.split)
        except (ValueError, LookupError, OSError, RuntimeError) as error:
            raise ValueError(f"cannot read '{self}': {error}") from error


def place_of(text: str | Path) -> Path | Source:
    """A folder or tar file, or 'hfds/NAME:SPLIT', 'wds/FOLDER:SPLIT'; the default split is 'validation'."""
    kind, _, rest = str(text).partition('/')
    if kind not in ('hfds', 'wds') or isinstance(text, Path):
        return Path(text)
    name, colon, split = rest.rpartition(':')
    return Source(kind, name, split) if colon and not split.startswith('//') else Source(kind, rest, 'validation')


def is_tar(place: Path | Source) -> bool:
    return isinstance(place, Path) and place.suffix == '.tar' and place.is_file()


def listed(place: Path | Source) -> Listed:
    """The images of a tar file, or of a data set with random access.

    Raises:
        ValueError: A tar file is damaged, or has classes in several folders; or images have no labels.
        FileNotFoundError: No image.
    """
    return _in_tar(place) if isinstance(place, Path) else _in_rows(place)


@dataclass(frozen=True)
class _Item:
    reader: TimmReader
    index: int
    file_stamp: object = None

    def stamp(self) -> object:
        return self.file_stamp

    def __call__(self) -> Image.Image:
        try:
            file = self.reader[self.index][0]
        except (AssertionError, TypeError) as error:  # a row without an image
            raise OSError('no image') from error
        with file:
            return read_rgb(file)


def _in_tar(file: Path) -> Listed:
    try:
        reader: TimmReader = create_reader('', str(file), cache_tarinfo=False)  # the cache of large files is a pickle
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"'{file}' is damaged or cut short: {error}") from error
    except ValueError as error:  # timm unpacks an empty list
        raise FileNotFoundError(f"no images in '{file}'") from error
    drop_hidden(reader, str(file))
    paths = [PurePosixPath(sample[0].path) for sample in reader.samples]
    above = sorted({str(path.parent.parent) for path in paths})
    if len(above) > 1:
        raise ValueError(f"the classes in '{file}' lie in several folders, {', '.join(above)}: pack one of them")
    names = tuple(reader.class_name_to_idx)
    stamp = stamp_of(file)
    return names, [(int(reader.targets[i]), str(path), _Item(reader, i, stamp)) for i, path in enumerate(paths)]


def _in_rows(source: Source) -> Listed:
    reader = source.open()
    labels: list[int] = list(reader.dataset[reader.label_key])
    if not all(isinstance(label, int) and label >= 0 for label in labels):
        raise ValueError(f"'{source}' has images without labels")
    if not labels:
        raise FileNotFoundError(f"no images in '{source}'")
    known = reader.class_to_idx or {str(number): number for number in range(max(labels) + 1)}
    names = tuple(sorted(known, key=lambda name: known[name]))
    return names, [(label, f'number {i} of {source}', _Item(reader, i)) for i, label in enumerate(labels)]


@dataclass
class StreamCell(Cell):
    """A part whose images can only be read in order; their labels are outputs of the network.

    Attributes:
        reader: Yields (image, label); skips what it cannot read.
        length: Number of images.
        stamps: Names, sizes and times of the shards.
    """

    reader: Iterable[tuple[Image.Image, int]] = ()
    length: int = 0
    stamps: Sequence[object] = ()

    @classmethod
    def read(cls, source: Source, name: str) -> StreamCell:
        """The shards of a webdataset.

        Raises:
            ValueError: The shards do not say how many images there are.
        """
        reader = source.open()
        if not reader.num_samples:
            raise ValueError(
                f"'{source}' does not say how many images it has: put _info.json beside the shards, or name them with "
                "the number, 'val-{00..63}.tar|50000'"
            )
        reader.dist_num_replicas = 1  # `images` splits them: timm's split may count images twice
        folder = Path(source.name)
        shards = sorted(folder.iterdir()) if folder.is_dir() else []
        stamps = [(shard.name, stamp_of(shard)) for shard in shards]
        return cls(name, [], reader=reader, length=reader.num_samples, stamps=stamps)

    def __len__(self) -> int:
        return self.length

    def identity(self) -> object:
        return [self.name, self.length, self.stamps]

    def images(self, show: Shown, rank: int, world: int) -> IterableDataset:
        return _StreamImages(self, show, rank, world)


class _StreamImages(IterableDataset):
    """The images of one process; its workers take shards in turn."""

    def __init__(self, cell: StreamCell, show: Shown, rank: int, world: int) -> None:
        self.cell, self.show, self.rank, self.world = cell, show, rank, world

    def __iter__(self) -> Iterator[Item]:
        for image, label in itertools.islice(self.cell.reader, self.rank, None, self.world):
            yield self.show(image, f'an image of {self.cell.name}'), '', label, None
