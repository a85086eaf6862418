"""What a network predicts for the images of a domain: counts for accuracy or mIoU, entropy, predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Answer = tuple[Tensor, Tensor | None]  # logits (K,) or (K, H, W) of an image, and its label () or (H, W)
Predict = Callable[[object], Sequence[Answer]]
RESAMPLES = 400  # of the images, for standard errors
_GRID = 64  # positions per side that are kept of a predicted label map


@dataclass(frozen=True)
class Value:
    """A number and its standard error over the images."""

    value: float
    error: float

    @property
    def is_clear(self) -> bool:
        """Whether it is above zero by more than two standard errors."""
        return self.value > 2 * self.error

    def __str__(self) -> str:
        return f'{self.value:.2f} ± {self.error:.2f}'


@dataclass
class Seen:
    """What a network predicts for images, one after the other.

    Attributes:
        counts: For each image (3, K): how often each class is predicted correctly, is predicted, and is the label; None
            without labels.
        entropies: Entropy of the prediction for each image, the mean over its positions, in nats.
        said: Predicted class of each image, or a grid of predicted classes.
        dense: Whether labels are maps, so that the score is mIoU instead of accuracy.
    """

    counts: list[Tensor | None] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)
    dense: bool = False

    def add(self, answers: Iterable[Answer]) -> None:
        """The answers of a batch.

        Raises:
            ValueError: Logits without an axis of classes, or the label of an image that is no class.
        """
        for logits, label in answers:
            if logits.dim() not in (1, 3):
                raise ValueError(f'expected logits (K,) or (K, H, W) of each image, got {tuple(logits.shape)}')
            logits = logits.float()
            self.dense = logits.dim() == 3
            said = logits.argmax(0)
            self.entropies.append(torch.special.entr(logits.softmax(0)).sum(0).mean().item())
            if label is not None and not self.dense and not 0 <= int(label) < len(logits):
                text = f'a label {int(label)} for {len(logits)} classes: an image without a label has None'
                raise ValueError(text)
            self.counts.append(None if label is None else _counts(said, label, len(logits)))
            step = max(1, max(said.shape, default=1) // _GRID)
            self.said.append(said[..., ::step, ::step].cpu() if self.dense else said.cpu())

    @property
    def labelled(self) -> bool:
        """Whether every image has a label."""
        return bool(self.counts) and all(count is not None for count in self.counts)

    def entropy(self, draws: Tensor) -> Tensor:
        """Mean entropy, (B,), of B draws of the images, which are passed in as weights (B, N)."""
        return draws @ torch.tensor(self.entropies, dtype=torch.float64) / draws.sum(1)

    def score(self, draws: Tensor) -> Tensor:
        """Accuracy or mIoU of such draws, (B,), in percent; all images must have labels."""
        stacked = torch.stack([count for count in self.counts if count is not None]).double()
        right, said, there = (draws @ stacked.flatten(1)).unflatten(1, stacked.shape[1:]).unbind(1)
        if not self.dense:
            return 100 * right.sum(1) / there.sum(1)
        union = said + there - right
        return 100 * (right / union).nanmean(1)

    def agreement(self, other: Seen) -> float:
        """The percentage of predictions that equal those of another run over the same images."""
        pairs = zip(self.said, other.said, strict=True)
        return 100 * sum((one == two).double().mean().item() for one, two in pairs) / len(self.said)


def _counts(said: Tensor, label: Tensor, classes: int) -> Tensor:
    """Counts (3, K) of each class as in `Seen.counts`, over the positions whose label is a class."""
    label = label.to(said.device)
    if label.shape != said.shape:
        raise ValueError(f'a label of shape {tuple(label.shape)} for predictions of shape {tuple(said.shape)}')
    valid = (label >= 0) & (label < classes)
    said, label = said[valid], label[valid].long()
    parts = said[said == label], said, label
    return torch.stack([torch.bincount(part, minlength=classes) for part in parts]).int().cpu()


def draws_of(images: int, seed: int) -> Tensor:
    """Weights (1 + RESAMPLES, N) of the images: first all of them once, then draws with replacement."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(images, (RESAMPLES, images), generator=generator)
    weights = torch.zeros(RESAMPLES, images, dtype=torch.float64)
    weights.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
    return torch.cat([torch.ones(1, images, dtype=torch.float64), weights])


def ratio_of(part: Tensor, whole: Tensor) -> Value:
    """`part / whole` in percent, with the error by linearisation: `whole` may be 0 in some draws."""
    ratio = (part[0] / whole[0]).item()
    return Value(100 * ratio, 100 * ((part - ratio * whole)[1:].std() / whole[0].abs()).item())


def value_of(draws: Tensor) -> Value:
    """The value for all images, with its standard deviation over the draws from `draws_of` as the error."""
    return Value(draws[0].item(), draws[1:].std().item())
