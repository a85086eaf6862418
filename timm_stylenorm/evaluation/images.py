"""Cells: the smallest parts of a test that have a score, and how their images are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import get_img_extensions
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms as tv

from ..datafiles import UNREADABLE, is_hidden

Reader = Callable[[], Image.Image]


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        name: For messages; relative to the folder of the protocol.
        read: Gives it as RGB.
        label: Number of its class, folder or category.
        texture: Category of its texture, in the cue conflict test.
    """

    name: str
    read: Reader
    label: int
    texture: int | None = None


@dataclass
class Cell:
    """One part of a test, such as one corruption at one severity.

    Attributes:
        name: 'gaussian_noise/3'.
        samples: Its images.
        folders: Names of the folders of classes that the labels number; none where labels are outputs of a network.
        change: Applied to the uint8 image (3, H, W) before it is normalised, with the number of the image.
    """

    name: str
    samples: list[Sample]
    folders: tuple[str, ...] = ()
    change: Callable[[Tensor, int], Tensor] | None = None


@dataclass(frozen=True)
class Shown:
    """How images of a test reach a network.

    Attributes:
        mean: For each channel, of values in [0, 1].
        std: For each channel.
        resize: From a PIL image to one of the network's size; None shows files as they are.
        size: Of the files that are shown as they are, rows and columns.
    """

    mean: Sequence[float]
    std: Sequence[float]
    resize: Callable[[Image.Image], Image.Image] | None = None
    size: tuple[int, int] | None = None

    def __call__(self, image: Image.Image, name: str) -> Tensor:
        """The uint8 image (3, H, W) that is normalised on the device.

        Raises:
            ValueError: A file of another size than its protocol has.
        """
        if self.resize is not None:
            image = self.resize(image)
        elif self.size is not None and image.size != self.size[::-1]:
            width, height = image.size
            raise ValueError(
                f"'{name}' has {height} x {width} pixels: the files of this test have {self.size[0]} x {self.size[1]}, "
                'and are neither resized nor cropped'
            )
        return tv.functional.pil_to_tensor(image)


class CellImages(Dataset):
    """The images of a cell; those that cannot be read are None."""

    def __init__(self, cell: Cell, show: Shown, rows: Sequence[int]) -> None:
        self.cell, self.show, self.rows = cell, show, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor | None, int]:
        index = self.rows[row]
        sample = self.cell.samples[index]
        try:
            image = sample.read()
        except UNREADABLE:
            return None, index
        shown = self.show(image, sample.name)
        return (shown if self.cell.change is None else self.cell.change(shown, index)), index


def collate(items: Sequence[tuple[Tensor | None, int]]) -> tuple[Tensor | None, list[int], list[int]]:
    """Images of a batch (None for none), their numbers, and those of damaged ones."""
    whole = [(image, index) for image, index in items if image is not None]
    damaged = [index for image, index in items if image is None]
    images = torch.stack([image for image, _ in whole]) if whole else None
    return images, [index for _, index in whole], damaged


def read_rgb(path: Path, border: int = 0) -> Image.Image:
    """A file as RGB, without a border of so many pixels."""
    with Image.open(path) as file:
        image = file.convert('RGB')
    return image.crop((border, border, image.width - border, image.height - border)) if border else image


def pick(array: np.ndarray, index: int) -> Image.Image:
    """An image of an array (N, H, W, 3) or (N, H, W), uint8, as RGB."""
    return Image.fromarray(array[index]).convert('RGB')


def natural(name: str) -> tuple[object, ...]:
    """Sorts '2' before '10'."""
    return tuple((0, int(part), '') if part.isdigit() else (1, 0, part) for part in re.split(r'(\d+)', name) if part)


def folders_in(root: Path) -> list[str]:
    """Names of the folders in a folder, without hidden ones."""
    return sorted((p.name for p in root.iterdir() if p.is_dir() and not is_hidden(p.name)), key=natural)


def files_in(folder: Path) -> Iterator[Path]:
    """Images in a folder, sorted, without hidden ones."""
    extensions = get_img_extensions(as_set=True)
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in extensions and not is_hidden(path.name):
            yield path


@dataclass(frozen=True)
class ClassFolders:
    """Images in `<root>/<class>/*`.

    Attributes:
        root: The folder of the classes.
        names: Of the classes.
        samples: All images.
    """

    root: Path
    names: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def read(
        cls, root: Path, labels: Mapping[str, int] | None = None, border: int = 0, only: Sequence[int] | None = None
    ) -> ClassFolders:
        """All images below a folder; with `labels`, of those folders, which are numbered so.

        Args:
            root: The folder of the classes.
            labels: Numbers of the folders; by default their order.
            border: Pixels that are cut off on all sides.
            only: Numbers of ImageNet's validation images that take part, by the last number in their names.

        Raises:
            FileNotFoundError: No such folder, or no image in it.
        """
        if not root.is_dir():
            raise FileNotFoundError(f"no folder '{root}'")
        names = folders_in(root)
        numbers = {name: i for i, name in enumerate(names)} if labels is None else labels
        wanted = None if only is None else set(only)
        samples = []
        for name in names:
            for path in files_in(root / name) if name in numbers else ():
                if wanted is None or int((re.findall(r'\d+', path.stem) or ['-1'])[-1]) in wanted:
                    reader = reader_of(path, border)
                    samples.append(Sample(f'{root.name}/{name}/{path.name}', reader, numbers[name]))
        if not samples:
            raise FileNotFoundError(f"no images in '{root}/<class>/'")
        return cls(root, tuple(names) if labels is None else (), samples)

    def cell(self, name: str) -> Cell:
        """All images as a cell."""
        return Cell(name, self.samples, self.names)


def reader_of(path: Path, border: int = 0) -> Reader:
    """`read_rgb` of a file, as worker processes can take it."""
    return partial(read_rgb, path, border)


@dataclass(frozen=True)
class Row:
    """One image of an array, as a reader that worker processes can take."""

    array: np.ndarray
    index: int

    def __call__(self) -> Image.Image:
        return pick(self.array, self.index)
