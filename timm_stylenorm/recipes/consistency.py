"""Consistency of the predictions under CrossNorm: the network should predict the same for an image in other styles.

Tang, Gao, Zhu, Zhang, Li, Metaxas, 'CrossNorm and SelfNorm for Generalization under Distribution Shifts', ICCV 2021,
arXiv:2102.02811.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..functional import consistency_loss
from ..layers import CrossNorm
from ..surgery.add import add_style, style_layers
from ..surgery.context import override_attr
from .base import Channels, ForwardLoss, LossTerm, Recipe, Target, refuse_checkpointing


class ConsistencyRecipe(Recipe):
    """The clean pass and, with the probability `p` of the CrossNorm layers, two passes with CrossNorm.

        L(clean) + weight * J(clean, cn1, cn2)

    L is the host's loss, J is `functional.consistency_loss`. In a pass with CrossNorm exactly `active` of its layers
    act, drawn anew. Every pass updates running statistics. This is as in the authors' code. All processes take the
    same kind of step, as SyncBatchNorm requires, but each draws its own layers.

    With AugMix, L covers all views of the images, in one pass, and the passes with CrossNorm use the first views:

        CE(clean) + 12 * J(clean, aug1, aug2) + weight * J(clean, cn1, cn2)

    Args:
        weight: Weight of the consistency loss.
        views: Number of views of each image in a batch [clean; aug1; aug2], if the host's loss is AugMix's
            (`aug_splits=3` of StyleNormClassifier, `--aug-splits 3 --jsd-loss` of timm's train.py); 1 without AugMix.

    Raises:
        ValueError: `weight` is below 0, or `views` is not a positive whole number.
    """

    def __init__(self, weight: float = 10.0, views: int = 1) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f'recipe crossnorm_consistency: weight is a number >= 0, got {weight!r}')
        if not isinstance(views, int) or views < 1:
            raise ValueError(f'recipe crossnorm_consistency: views is a whole number >= 1, got {views!r}')
        self.weight, self.views = weight, views

    def prepare(
        self, model: nn.Module, encoder: nn.Module | None = None, mean: Channels = (0.0,), std: Channels = (1.0,)
    ) -> None:
        """See `Recipe.prepare`. A model without CrossNorm gets it at its default sites.

        Raises:
            ValueError: Activation checkpointing; a model whose labels are maps or boxes.
        """
        refuse_checkpointing(model)
        if encoder is not None and encoder is not model:
            raise ValueError(
                f'recipe crossnorm_consistency compares logits of images, which {type(model).__name__} does not give: '
                'it is for classifiers'
            )
        if not _layers(model):
            add_style(model, 'crossnorm')

    def losses(self, model: nn.Module, images: Tensor, target: Target, forward_loss: ForwardLoss) -> dict[str, Tensor]:
        """See `Recipe.losses`.

        Raises:
            ValueError: Activation checkpointing; a batch size not divisible by `views`; a model without CrossNorm.
        """
        if not model.training:
            return forward_loss(images, [LossTerm(target)])
        refuse_checkpointing(model)
        layers = _layers(model)
        if not layers:
            raise ValueError(f'recipe crossnorm_consistency: {type(model).__name__} has no CrossNorm; call `prepare`')
        n, rest = divmod(len(images), self.views)
        if rest:
            raise ValueError(f'recipe crossnorm_consistency: {len(images)} images are no batch of {self.views} views')
        seen: list[Tensor] = []

        def consistency(logits: Tensor) -> Tensor | None:
            seen.append(logits)
            return consistency_loss(*seen) if len(seen) == 3 else None

        with override_attr(layers, 'enabled', False):
            clean = LossTerm(None, slice(0, n), criterion=consistency)
            losses = forward_loss(images, [LossTerm(target), clean])
        if not _coin(max(layer.p for layer in layers), images.device):
            return losses
        with override_attr(layers, 'p', 1.0):
            for name in ('cn1', 'cn2'):
                losses |= forward_loss(images[:n], [LossTerm(None, slice(0, n), self.weight, name, consistency)])
        losses['crossnorm.loss'] = losses.pop('cn2.loss')
        return losses


def _layers(model: nn.Module) -> list[CrossNorm]:
    return [layer for _, layer in style_layers(model) if isinstance(layer, CrossNorm)]


def _coin(p: float, device: torch.device) -> bool:
    """Whether a random number is below p; the result is the same on all processes."""
    draw = torch.rand((), device='cpu').to(device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(draw, src=0)
    return draw.item() < p
