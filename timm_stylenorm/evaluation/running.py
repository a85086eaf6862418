"""Run a network over the images of a part, and count its answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import StyleNormWarning
from .attacks import ATTACKS
from .images import Batch, Cell, Shown, loader_of, warn_of_damaged
from .labels import Groups, folder_indices
from .protocols import Protocol

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Running:
    """How the network runs; see `evaluate`.

    Raises:
        ValueError: `batch_size` is neither 'auto' nor a positive number.
    """

    batch_size: int | str = 64
    workers: int = 0
    device: str | torch.device | None = None
    amp: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size != 'auto' and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            raise ValueError(f"batch_size: expected 'auto' or at least 1, got {self.batch_size!r}")


def rank() -> int:
    """Rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


@dataclass
class Runner:
    """Runs the network over the images of parts."""

    model: nn.Module
    row: Protocol
    show: Shown
    running: Running
    seed: int
    progress: Progress | None

    def __post_init__(self) -> None:
        first = next(self.model.parameters(), None)
        own = first.device if first is not None else torch.device('cpu')
        self.dtype = first.dtype if first is not None and first.is_floating_point() else torch.float32
        self.device = torch.device(self.running.device) if self.running.device else own
        self.outputs: int | None = None  # of the network, known after its first batch
        self.model.to(self.device)
        if self.running.channels_last:
            self.model.to(memory_format=torch.channels_last)
        automatic = self.running.batch_size == 'auto'
        self.batch_size = 256 if automatic else int(self.running.batch_size)
        self.automatic = automatic

    def count(self, cell: Cell, groups: Groups | None, root: object) -> dict[str, int]:
        """Counts of a part over all processes; an automatic batch size is halved whenever GPU memory runs out."""
        devices = [self.device] if self.device.type == 'cuda' else []
        while True:
            try:
                with torch.random.fork_rng(devices):  # the caller's draws go on as if nothing had run
                    return self._count(cell, groups, root)
            except torch.cuda.OutOfMemoryError:
                if not self.automatic or self.batch_size == 1:
                    raise
                self.batch_size //= 2

    def _count(self, cell: Cell, groups: Groups | None, root: object) -> dict[str, int]:
        world = dist.get_world_size() if dist.is_initialized() else 1
        share = len(range(rank(), len(cell), world))
        loader = loader_of(cell.images(self.show, rank(), world), self.batch_size, self.running.workers)
        names = ('total', 'shape', 'texture') if self.row.textures else ('total', 'top1', 'top5')
        counts, damaged, self.undefined = dict.fromkeys(names, 0), [], 0
        torch.manual_seed(self.seed)  # PGD starts at random
        for batch in loader:
            damaged += batch.damaged
            if batch.images is not None:
                for key, value in zip(names, self._batch(batch.images, batch, cell, groups, root), strict=True):
                    counts[key] += value
            if self.progress is not None:
                self.progress(cell.name, counts['total'] + len(damaged), share)
        lost = share - counts['total']
        if lost > 0:
            warn_of_damaged(cell.name, lost, damaged)
        if self.undefined:
            text = f'{cell.name}: the network gave NaN for {self.undefined} images, which count as wrong'
            warnings.warn(text, StyleNormWarning, stacklevel=2)
        summed = self._summed({**counts, 'damaged': lost})
        if not summed['total'] or summed['damaged'] < 0:
            raise ValueError(f'{cell.name} has {summed["total"]} images that can be read, of {len(cell)}')
        return summed

    def first_of(self, found: dict[str, int] | None) -> dict[str, int] | None:
        """What the first process has found, in all processes."""
        if not dist.is_initialized():
            return found
        told = [found]
        dist.broadcast_object_list(told, src=0, device=self.device if dist.get_backend() == 'nccl' else None)
        return told[0]

    def _summed(self, counts: Mapping[str, int]) -> dict[str, int]:
        if not dist.is_initialized():
            return dict(counts)
        cpu = dist.get_backend() != 'nccl'
        values = torch.tensor(list(counts.values()), device='cpu' if cpu else self.device)
        dist.all_reduce(values)
        return dict(zip(counts, values.tolist(), strict=True))

    def _batch(
        self, images: Tensor, batch: Batch, cell: Cell, groups: Groups | None, root: object
    ) -> tuple[int, int, int]:
        inputs = self.show.inputs(images, self.device).to(self.dtype)
        if self.running.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        labels = torch.tensor(batch.labels, device=self.device)
        if self.row.attack is not None:
            outputs = self.outputs or self._logits(inputs).shape[1]
            targets = self._targets(labels, cell, outputs, root)
            inputs = ATTACKS[self.row.attack](self.model, inputs, targets, self.show.mean, self.show.std)
        logits = self._logits(inputs)
        if self.row.outputs not in (None, logits.shape[1]):
            needs = f'this test needs a network with the {self.row.outputs} outputs of ImageNet'
            raise ValueError(f'{self.row.title}: {needs}, not {logits.shape[1]}')
        if groups is not None:
            scores = groups.scores(logits)
        else:
            scores, labels = logits, self._targets(labels, cell, logits.shape[1], root)
        if labels.max() >= scores.shape[1]:
            raise ValueError(f'{cell.name}: class {int(labels.max())}, and the network has {scores.shape[1]} outputs')
        undefined = scores.isnan().any(1)
        self.undefined += int(undefined.sum())
        labels = labels.masked_fill(undefined, -1)  # no class
        if self.row.textures:
            textures = torch.tensor(batch.textures, device=self.device).masked_fill(undefined, -1)
            chosen = scores.argmax(1)
            return len(labels), int((chosen == labels).sum()), int((chosen == textures).sum())
        ranked = scores.topk(min(5, scores.shape[1]), 1).indices == labels[:, None]
        return len(labels), int(ranked[:, 0].sum()), int(ranked.sum())

    @torch.no_grad()
    def _logits(self, inputs: Tensor) -> Tensor:
        dtype = torch.float16 if self.device.type == 'cuda' else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.running.amp):
            logits = self.model(inputs)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise ValueError(f'evaluate: expected logits (N, K) of the network, got {_what(logits)}')
        self.outputs = logits.shape[1]
        return logits.float()

    def _targets(self, labels: Tensor, cell: Cell, outputs: int, root: object) -> Tensor:
        """Numbers of class folders -> outputs of the network; labels of parts without folders are outputs already."""
        if not cell.folders:
            return labels
        return torch.tensor(folder_indices(cell.folders, outputs, root), device=self.device)[labels]


def _what(value: object) -> str:
    return f'a tensor of shape {tuple(value.shape)}' if isinstance(value, Tensor) else type(value).__name__
