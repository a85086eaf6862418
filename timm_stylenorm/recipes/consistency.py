"""Consistency of the predictions under CrossNorm: the network is to say the same of an image in other styles.

Tang, Gao, Zhu, Zhang, Li, Metaxas, 'CrossNorm and SelfNorm for Generalization under Distribution Shifts', ICCV 2021,
arXiv:2102.02811.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..functional import consistency_loss
from ..layers import CrossNorm
from ..surgery.add import add_style, style_layers
from ..surgery.context import override_attr
from .base import Channels, ForwardLoss, LossTerm, Recipe, refuse_checkpointing


class ConsistencyRecipe(Recipe):
    """The clean pass and, with the probability `p` of the CrossNorm layers, two passes with CrossNorm.

        CE(clean) + weight * J(clean, cn1, cn2)                                         a step with CrossNorm
        CE(clean) + augmix * J(clean, aug1, aug2) + weight * J(clean, cn1, cn2)         such a step on AugMix's views

    J is `functional.consistency_loss`. In a pass with CrossNorm exactly `active` of its layers act, drawn anew. Every
    pass moves running statistics. As the authors' code; all processes take the same kind of step, which a SyncBatchNorm
    needs, and each draws its own layers.

    Args:
        weight: Of the consistency of the passes with CrossNorm.
        views: 3 for batches [clean; aug1; aug2], as timm makes them with `--aug-splits 3`; their labels are those of
            the clean part, or of all.
        augmix: Weight of the consistency of the views.

    Raises:
        ValueError: A weight below 0, or a number of views that is neither 1 nor 3.
    """

    def __init__(self, weight: float = 10.0, views: int = 1, augmix: float = 12.0) -> None:
        if not weight >= 0 or not augmix >= 0:
            raise ValueError(f'recipe crossnorm_consistency: weights are >= 0, got weight={weight}, augmix={augmix}')
        if views not in (1, 3):
            raise ValueError(f'recipe crossnorm_consistency: views are 1, or 3 of AugMix, got {views!r}')
        self.weight, self.views, self.augmix = weight, views, augmix

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

    def losses(self, model: nn.Module, images: Tensor, target: Any, forward_loss: ForwardLoss) -> dict[str, Tensor]:
        """See `Recipe.losses`.

        Raises:
            ValueError: Activation checkpointing; a batch that is not of so many views; a model without CrossNorm.
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
        parts = [LossTerm(target[:n], slice(0, n)), LossTerm(None, slice(0, n), criterion=seen.append)]
        if self.views > 1:
            parts.append(LossTerm(None, weight=self.augmix, name='augmix', criterion=self._of_views))
        with override_attr(layers, 'enabled', False):
            losses = forward_loss(images, parts)
        if not _coin(max(layer.p for layer in layers), images.device):
            return losses

        def last(logits: Tensor) -> Tensor:
            return consistency_loss(*seen, logits)

        with override_attr(layers, 'p', 1.0):
            for name, criterion in (('cn1', seen.append), ('cn2', last)):
                part = LossTerm(None, weight=self.weight, name=name, criterion=criterion)
                losses |= forward_loss(images[:n], [part])
        losses['crossnorm.loss'] = losses.pop('cn2.loss')
        return losses

    def _of_views(self, logits: Tensor) -> Tensor:
        return consistency_loss(*logits.chunk(self.views))


def _layers(model: nn.Module) -> list[CrossNorm]:
    return [layer for _, layer in style_layers(model) if isinstance(layer, CrossNorm)]


def _coin(p: float, device: torch.device) -> bool:
    """Whether it is below p, on all processes or on none."""
    draw = torch.rand((), device='cpu').to(device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(draw, src=0)
    return draw.item() < p
