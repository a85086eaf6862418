"""Shape-texture debiased training: images in the style of other images, with the labels of both.

Li, Yu, Tan, Mei, Tang, Shen, Yuille, Xie, 'Shape-Texture Debiased Neural Network Training', ICLR 2021,
arXiv:2010.05981.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dual_bn import routed
from ..errors import StyleNormWarning
from ..functional import crop_box
from ..layers.base import beta
from ..surgery.companions import provide
from ..surgery.structure import batch_norms
from .base import Channels, ForwardLoss, LossTerm, Recipe, Target, make_dual, refuse_checkpointing
from .stylisers import Styliser, build_styliser


class DebiasedRecipe(Recipe):
    """One pass over [images; the same images in the styles of others in the batch], each half with its own batch norms.

    Image i takes the style of image perm[i], without gradient; the permutation is drawn for each batch. The clean half
    keeps its labels. The loss of the stylised half is gamma times the loss with its own labels (the shape), plus
    1 - gamma times the loss with the labels of image perm[i] (the texture). The total is the mean over all 2N images,
    as in the authors' code. Losses of the stylised half are named `stylised.*`.

    `gamma` 1 and 0 give the paper's shape-biased and texture-biased models, the recipes `shape_biased` and
    `texture_biased`. Label maps cannot be mixed: in segmentation gamma is 1, and the losses are means over all 2N
    images, with their plain names.

    Either Mixup or CutMix can act on the clean half and its labels, after stylisation, as in the authors' code.

    Args:
        styliser: See `build_styliser`: 'adain', which needs weights, 'fourier' or 'pixel'.
        alpha: Strength of the style, 0 to 1.
        gamma: Share of the shape's label; None means 0.8, or 1 in segmentation.
        multi_grid: The times at which the learning rate drops, and the end of training, in epochs or any other unit:
            (30, 60, 90, 100). The stylised images are then smaller, and the network sees them at this size in a
            separate pass, as in the authors' `img_size_scheduler`: the sides are multiplied by 1 / sqrt 2 in the first,
            third, ... batch of an epoch, and by another 1 / sqrt 2 in the first half of the time between two drops.
            None for images of one size.
        min_size: Smallest side that multi-grid produces, in pixels. The authors use 112, and 200 for ResNeXt-101 with
            Mixup.
        mixup, cutmix: alpha of the Beta distribution; 0 for none. The authors use 0.4 and 1.

    Raises:
        ValueError: A value is out of range, or both Mixup and CutMix are set.

    Warns:
        StyleNormWarning: Multi-grid is used but nobody reports the progress of training, see `Recipe.set_progress`.
    """

    def __init__(
        self,
        styliser: str | Mapping[str, object] | Styliser = 'adain',
        alpha: float = 0.5,
        gamma: float | None = None,
        multi_grid: Sequence[float] | None = None,
        min_size: int = 112,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        for name, value in (('alpha', alpha), ('gamma', gamma)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f'recipe debiased: expected 0 <= {name} <= 1, got {value}')
        times = None if multi_grid is None else tuple(multi_grid)
        if times is not None and not (times and times[0] > 0 and list(times) == sorted(set(times))):
            raise ValueError(
                'recipe debiased: multi_grid is rising times, the last one the end of training, such as '
                f'(30, 60, 90, 100), got {multi_grid!r}'
            )
        if mixup < 0 or cutmix < 0 or (mixup and cutmix):
            raise ValueError(
                f'recipe debiased: mixup or cutmix, positive, or neither, got mixup={mixup} and cutmix={cutmix}'
            )
        self.alpha, self.gamma, self.min_size, self.mixup, self.cutmix = alpha, gamma, min_size, mixup, cutmix
        self.multi_grid = times
        self._share: float | None = None  # completed share of the training
        self._batch = 0
        self.styliser = build_styliser(styliser)
        self.mean, self.std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)

    def prepare(
        self, model: nn.Module, encoder: nn.Module | None = None, mean: Channels = (0.0,), std: Channels = (1.0,)
    ) -> None:
        """See `Recipe.prepare`. A model without batch norms treats both kinds of images alike.

        Raises:
            ValueError: Activation checkpointing; batch norms that are frozen or that a style method has replaced; for a
                segmentor, `gamma` below 1, Mixup, CutMix or multi-grid.
        """
        refuse_checkpointing(model)
        if encoder is not None and encoder is not model:  # of a segmentor
            self._refuse_mixed_labels()
        make_dual(model, [name for name, _ in batch_norms(model)])
        provide(model, 'recipe')
        self.mean, self.std = (torch.as_tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std))

    def losses(self, model: nn.Module, images: Tensor, target: Target, forward_loss: ForwardLoss) -> dict[str, Tensor]:
        """See `Recipe.losses`.

        Raises:
            ValueError: Label maps with `gamma` below 1, Mixup, CutMix or multi-grid; signals or clips, not images.
        """
        if images.dim() != 4:
            raise ValueError(f'recipe debiased: stylisers take images (N, C, H, W), got {tuple(images.shape)}')
        if not model.training:
            return forward_loss(images, [LossTerm(target)])
        refuse_checkpointing(model)
        index = torch.randperm(len(images), device=images.device)
        stylised = self.stylise(images, index, self._size(images))
        self._batch += 1
        images, parts = self._parts(images, target, index)
        n = len(images)
        if stylised.shape == images.shape:
            with routed(model, torch.arange(2 * n) >= n):
                return forward_loss(torch.cat([images, stylised]), parts)
        clean = forward_loss(images, [part for part in parts if part.rows.start == 0])
        with routed(model, 'adversarial'):
            rest = [replace(part, rows=slice(0, n)) for part in parts if part.rows.start == n]
            return {**clean, **forward_loss(stylised, rest)}

    def set_progress(self, share: float, batch: int = 0) -> None:
        """See `Recipe.set_progress`."""
        self._share, self._batch = share, batch

    def _size(self, images: Tensor) -> list[int]:
        """The size of the stylised images of this batch."""
        size = list(images.shape[2:])
        if self.multi_grid is None:
            return size
        if self._share is None:
            self._share = 0.0
            text = (
                'recipe debiased: multi_grid follows the course of training, and nobody tells it: the sizes are those '
                'of the beginning. Call recipe.set_progress(epoch / epochs) before each epoch'
            )
            warnings.warn(text, StyleNormWarning, stacklevel=2)
        times = [0.0, *(time / self.multi_grid[-1] for time in self.multi_grid)]
        early = any(a <= self._share < (a + b) / 2 for a, b in pairwise(times))
        scale = 0.5 ** ((int(early) + int(self._batch % 2 == 0)) / 2)
        scale = max(scale, min(1.0, self.min_size / min(size)))
        return [int(scale * side + 0.5) for side in size]

    @torch.no_grad()
    def stylise(self, images: Tensor, index: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Image i in the style of image index[i], in the given size; input and result are normalised, (N, C, H, W)."""
        for name, values in (('mean', self.mean), ('std', self.std)):
            if len(values) not in (1, images.shape[1]):
                raise ValueError(
                    f'recipe debiased: the images have {images.shape[1]} channels, and {name} has {len(values)} values'
                )
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        plain = (images * std + mean).clamp(0, 1)
        if size is not None and tuple(size) != plain.shape[2:]:
            plain = F.interpolate(plain, list(size))
        result = self.styliser(plain, index, self.alpha)
        return ((result - mean) / std).to(images.dtype)

    def _parts(self, images: Tensor, target: Target, index: Tensor) -> tuple[Tensor, list[LossTerm]]:
        """The clean images, mixed if requested, and the loss terms of both halves."""
        if not _of_images(target):
            self._refuse_mixed_labels()
            return images, [LossTerm(torch.cat([target] * 2) if isinstance(target, Tensor) else [*target, *target])]
        n = len(images)
        clean, rest = slice(0, n), slice(n, 2 * n)
        images, other, share = self._mixed(images)
        gamma = 0.8 if self.gamma is None else self.gamma
        parts = [
            LossTerm(target, clean, (1 - share) / 2),
            LossTerm(target[other], clean, share / 2),
            LossTerm(target, rest, gamma / 2, 'stylised'),
            LossTerm(target[index], rest, (1 - gamma) / 2, 'stylised'),
        ]
        return images, [part for part in parts if part.weight]

    def _mixed(self, images: Tensor) -> tuple[Tensor, Tensor, float]:
        """The mixed images, the indices of the other images, and the share of the labels of the others."""
        if not self.mixup and not self.cutmix:
            return images, torch.arange(len(images), device=images.device), 0.0
        other = torch.randperm(len(images), device=images.device)
        share = beta(self.mixup or self.cutmix, 1, torch.empty(0)).item()
        if self.mixup:
            return mixup(images, other, share), other, share
        row, column = (int(torch.randint(size, ())) for size in images.shape[2:])
        mixed, share = cutmix(images, other, share, (row, column))
        return mixed, other, share

    def _refuse_mixed_labels(self) -> None:
        if self.multi_grid is not None:
            raise ValueError('recipe debiased: labels of maps keep their size, so multi_grid is for classification')
        for name, value, needed in (('gamma', self.gamma, 1), ('mixup', self.mixup, 0), ('cutmix', self.cutmix, 0)):
            if value is not None and value != needed:
                raise ValueError(
                    f'recipe debiased: the labels of maps cannot be mixed with those of other images, so segmentation '
                    f'needs {name}={needed}, got {value}'
                )


def _of_images(target: Target) -> TypeGuard[Tensor]:
    """Whether the target is labels of images, (N,), or probabilities or several labels for each image, (N, K)."""
    return isinstance(target, Tensor) and target.dim() <= 2


def mixup(images: Tensor, index: Tensor, share: float) -> Tensor:
    """(1 - share) * images + share * images[index]."""
    return torch.lerp(images, images[index], share)


def cutmix(images: Tensor, index: Tensor, share: float, centre: tuple[int, int]) -> tuple[Tensor, float]:
    """Replace a box of every image by the same box of another image.

    Args:
        images: (N, C, H, W).
        index: (N,), the other image of each image.
        share: Share of the area; the box has int(H * sqrt(share)) // 2 rows and int(W * sqrt(share)) // 2 columns on
            each side of the centre, as far as they are inside the image.
        centre: Row and column of the centre.

    Returns:
        The mixed images, and the true share of the box.
    """
    height, width = images.shape[2:]
    (rows, columns), _ = crop_box(height, width, share, centre)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[index][:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, area / (height * width)
