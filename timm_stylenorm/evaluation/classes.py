"""Images by their class, whether they are in folders, in a tar file or in a data set of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .images import Cell, File, Sample, files_in, folders_in
from .readers import Listed, Source, is_tar, listed


@dataclass(frozen=True)
class ClassImages:
    """All images of some classes.

    Attributes:
        names: Names of the classes that the labels index; empty if labels are outputs of a network.
        samples: The images.
    """

    names: tuple[str, ...]
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def read(
        cls,
        place: Path | Source,
        labels: Mapping[str, int] | None = None,
        border: int = 0,
        only: Sequence[int] | None = None,
    ) -> ClassImages:
        """The images of a place (see `place_of`); with `labels`, only images of the classes named there.

        Args:
            place: A folder of class folders, a tar file of them, or a data set.
            labels: The number of each class; by default its position.
            border: Pixels that are cut off on all sides of files.
            only: Numbers of the ImageNet validation images to use; each is the last number in a file's name.

        Raises:
            FileNotFoundError: No such folder, or no image in it.
            ValueError: `only` is given, and the images have no file names.
        """
        if only is not None and isinstance(place, Source):
            raise ValueError(f"'{place}': a subset of ImageNet goes by the names of files, in a folder or a tar file")
        names, found = listed(place) if is_tar(place) or isinstance(place, Source) else _in_folders(place, border)
        numbers = {name: i for i, name in enumerate(names)} if labels is None else labels
        wanted = None if only is None else set(only)
        samples = [
            Sample(name, read, numbers[names[k]])
            for k, name, read in found
            if names[k] in numbers and (wanted is None or _number(name) in wanted)
        ]
        if not samples:
            raise FileNotFoundError(f"no images in '{place}/<class>/'")
        return cls(names if labels is None else (), samples)

    def cell(self, name: str) -> Cell:
        """All images as a cell."""
        return Cell(name, self.samples, self.names)


def _in_folders(root: Path, border: int) -> Listed:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder '{root}'")
    names = folders_in(root)
    files = [(k, file) for k, name in enumerate(names) for file in files_in(root / name)]
    return tuple(names), [(k, f'{root.name}/{names[k]}/{file.name}', File(file, border)) for k, file in files]


def _number(name: str) -> int:
    return int((re.findall(r'\d+', Path(name).stem) or ['-1'])[-1])
