"""Cells: the smallest parts of a test that have a score, and how their images are read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from PIL import Image
from timm.data import get_img_extensions
from timm.utils.misc import natural_key
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as tv

from ..datafiles import IMAGE_SUFFIXES, UNREADABLE, as_rgb, is_hidden
from ..errors import StyleNormWarning
from ..workers import end_with_parent

Item = tuple[Tensor | None, str, int, int | None]  # an image, or None if it is damaged; its name, label, texture


class Reader(Protocol):
    """Returns an image as RGB; worker processes get it by pickle."""

    def __call__(self) -> Image.Image: ...

    def stamp(self) -> object:
        """An object for JSON that changes if the image does, as far as its file tells."""


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        name: Its name in messages, relative to the folder of the protocol.
        read: Returns it as RGB.
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
        folders: Names of the class folders that the labels index; empty if labels are outputs of a network.
        change: Called with the uint8 image (3, H, W), before normalisation, and the number of the image.
    """

    name: str
    samples: list[Sample]
    folders: tuple[str, ...] = ()
    change: Callable[[Tensor, int], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def identity(self) -> object:
        """An object for JSON by which stored counts are recognised as those of the same images."""
        return [[sample.name, sample.label, sample.read.stamp()] for sample in self.samples]

    def images(self, show: Shown, rank: int, world: int) -> Dataset[Item]:
        """The images that one of several processes takes."""
        return CellImages(self, show, range(rank, len(self.samples), world))


@dataclass(frozen=True)
class Shown:
    """How images of a test are prepared for a network.

    Attributes:
        mean: Mean of each channel, for values in [0, 1].
        std: Standard deviation of each channel.
        resize: Turns a PIL image into one of the network's size; None leaves files as they are.
        size: Rows and columns of files that are left as they are.
        grey: Whether the network takes one channel.
    """

    mean: Sequence[float]
    std: Sequence[float]
    resize: Callable[[Image.Image], Image.Image] | None = None
    size: tuple[int, int] | None = None
    grey: bool = False

    def __call__(self, image: Image.Image, name: str) -> Tensor:
        """The uint8 image (3, H, W), or (1, H, W), to be normalised on the device.

        Raises:
            ValueError: The file does not have the size of its protocol.
        """
        if self.resize is not None:
            image = self.resize(image)
        elif self.size is not None and image.size != self.size[::-1]:
            width, height = image.size
            raise ValueError(
                f"'{name}' has {height} x {width} pixels: the files of this test have {self.size[0]} x {self.size[1]}, "
                'and are neither resized nor cropped'
            )
        return tv.functional.pil_to_tensor(image.convert('L') if self.grey else image)

    def inputs(self, images: Tensor, device: torch.device | str = 'cpu') -> Tensor:
        """Inputs of the network on a device: the uint8 images (N, 3, H, W), normalised."""
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images.to(device).float() / 255 - mean) / std


class CellImages(Dataset[Item]):
    """The images of a cell; an image that cannot be read is None."""

    def __init__(self, cell: Cell, show: Shown, rows: Sequence[int]) -> None:
        self.cell, self.show, self.rows = cell, show, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Item:
        index = self.rows[row]
        sample = self.cell.samples[index]
        facts = sample.name, sample.label, sample.texture
        try:
            image = sample.read()
        except UNREADABLE:
            return None, *facts
        shown = self.show(image, sample.name)
        return shown if self.cell.change is None else self.cell.change(shown, index), *facts


@dataclass(frozen=True)
class Batch:
    """Images that could be read, and the names of the others.

    Attributes:
        images: (N, 3, H, W), uint8; None if no image could be read.
        labels: N labels.
        textures: N textures, or an empty list.
        damaged: Names of the files that could not be read.
    """

    images: Tensor | None
    labels: list[int]
    textures: list[int]
    damaged: list[str]


def collate(items: Sequence[Item]) -> Batch:
    """A batch of items."""
    whole = [(image, label, texture) for image, _, label, texture in items if image is not None]
    return Batch(
        images=torch.stack([image for image, *_ in whole]) if whole else None,
        labels=[label for _, label, _ in whole],
        textures=[texture for *_, texture in whole if texture is not None],
        damaged=[name for image, name, *_ in items if image is None],
    )


def loader_of(images: Dataset[Item], batch_size: int, workers: int) -> DataLoader:
    """A data loader of images, whose worker processes end with this one."""
    return DataLoader(
        images, batch_size=batch_size, num_workers=workers, worker_init_fn=end_with_parent, collate_fn=collate
    )


def warn_of_damaged(part: str, count: int, names: Sequence[str]) -> None:
    """Warn that `count` files of a part cannot be read; some of their names are known."""
    some = ', '.join(names[:3]) or 'see the log of the reader'
    text = f'{part}: {count} files cannot be read and are left out: {some}'
    warnings.warn(text, StyleNormWarning, stacklevel=3)


def read_rgb(path: Path | IO[bytes], border: int = 0) -> Image.Image:
    """A file as RGB, without `border` pixels on each side."""
    with Image.open(path) as file:
        image = as_rgb(file)
    return image.crop((border, border, image.width - border, image.height - border)) if border else image


def pick(array: np.ndarray, index: int) -> Image.Image:
    """An image of an array (N, H, W, 3) or (N, H, W), uint8, as RGB."""
    return Image.fromarray(array[index]).convert('RGB')


def folders_in(root: Path) -> list[str]:
    """Names of the folders in a folder, without hidden ones, in the order of timm's readers: '2' before '10'."""
    return sorted((p.name for p in root.iterdir() if p.is_dir() and not is_hidden(p.name)), key=natural_key)


def files_in(folder: Path) -> Iterator[Path]:
    """Images in a folder, sorted, without hidden ones."""
    endings = {*IMAGE_SUFFIXES, *get_img_extensions()}  # users may add to timm's
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in endings and not is_hidden(path.name):
            yield path


def stamp_of(path: str | Path) -> list[int] | None:
    """Size and time of a file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


@dataclass(frozen=True)
class File:
    """The reader of a file, without `border` pixels on each side."""

    path: Path
    border: int = 0

    def __call__(self) -> Image.Image:
        return read_rgb(self.path, self.border)

    def stamp(self) -> object:
        return stamp_of(self.path)


@dataclass(frozen=True)
class Row:
    """The reader of one image of an array, which is that of a file."""

    array: np.ndarray
    index: int
    file_stamp: object = None

    def __call__(self) -> Image.Image:
        return pick(self.array, self.index)

    def stamp(self) -> object:
        return self.file_stamp
