"""Images by their class, wherever they lie: in folders, in a tar file, in a data set of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .images import Cell, Sample, files_in, folders_in, reader_of
from .readers import Listed, Source, is_tar, listed


@dataclass(frozen=True)
class ClassImages:
    """All images of some classes.

    Attributes:
        names: Of the classes that the labels number; none where labels are outputs of a network.
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
        """The images of a place, see `place_of`; with `labels`, of those classes, which are numbered so.

        Args:
            place: A folder of the folders of the classes, a tar file of them, or a data set.
            labels: Numbers of the classes; by default their order.
            border: Pixels that are cut off on all sides of files.
            only: Numbers of ImageNet's validation images that take part, by the last number in their names.

        Raises:
            FileNotFoundError: No such folder, or no image in it.
            ValueError: `only`, and images without names of files.
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
    return tuple(names), [(k, f'{root.name}/{names[k]}/{file.name}', reader_of(file, border)) for k, file in files]


def _number(name: str) -> int:
    return int((re.findall(r'\d+', Path(name).stem) or ['-1'])[-1])
