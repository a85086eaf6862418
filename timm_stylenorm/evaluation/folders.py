"""A folder of images as a domain: batches for a classifier, with labels if the images are in class folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from timm.utils.misc import natural_key
from torch import Tensor

from .cells import class_root, limited
from .classes import ClassImages
from .images import Cell, File, Sample, Shown, files_in, folders_in, loader_of, warn_of_damaged
from .labels import folder_indices


class FolderDomain:
    """Batches (images, labels) of a folder, normalised, in the same order each time.

    Args:
        root: Folder with `<class>/*`, also within `val`, `validation` or `test`; images directly in it have no labels.
        show: How images are prepared for the network.
        classes: Names of the class folders, in the order of the network's outputs; see `class_names`.
        outputs: Number of outputs of the network.
        limit: Maximum number of images, spread evenly.
        batch_size: Number of images in a batch.
        workers: Number of processes that read images.

    Raises:
        FileNotFoundError: No such folder, or no image in it.
        ValueError: The class folders do not fit the network's outputs.
    """

    def __init__(
        self,
        root: Path,
        show: Shown,
        classes: Sequence[str],
        outputs: int,
        limit: int | None = None,
        batch_size: int = 32,
        workers: int = 0,
    ) -> None:
        self.show, self.batch_size, self.workers, self._told = show, batch_size, workers, False
        if classes and folders_in(class_root(root)):
            numbers = folder_indices(tuple(classes), outputs, root)
            labels = dict(zip(classes, numbers, strict=True))
            cell = Cell(root.name, ClassImages.read(class_root(root), labels).samples)
        else:
            cell = Cell(root.name, [Sample(path.name, File(path), -1) for path in files_in(root)])
        if not cell.samples:
            raise FileNotFoundError(f"no images in '{root}' or in '{root}/<class>/'")
        self.cell = limited(cell, limit)
        self.labelled = all(sample.label >= 0 for sample in self.cell.samples)

    def __len__(self) -> int:
        return len(self.cell.samples)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        damaged: list[str] = []
        for batch in loader_of(self.cell.images(self.show, 0, 1), self.batch_size, self.workers):
            damaged += batch.damaged
            if batch.images is not None:
                yield self.show.inputs(batch.images), torch.tensor(batch.labels) if self.labelled else None
        if damaged and not self._told:
            warn_of_damaged(self.cell.name, len(damaged), damaged)
            self._told = True


def class_names(roots: Sequence[Path]) -> list[str]:
    """Names of the class folders with images in any of these folders, in the order of timm's readers.

    Raises:
        FileNotFoundError: No such folder.
    """
    found: set[str] = set()
    for root in roots:
        base = class_root(root)
        found.update(name for name in folders_in(base) if any(files_in(base / name)))
    return sorted(found, key=natural_key)
