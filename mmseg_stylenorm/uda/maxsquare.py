"""Adaptation with the maximum squares loss or the entropy (Chen, Xue & Cai, ICCV 2019, arXiv:1909.13589)."""

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from timm_stylenorm import style_layers, style_losses
from timm_stylenorm.errors import unknown
from timm_stylenorm.functional import adaptation

from ..datasets.loading import IGNORE
from .base import UDASegmentor

TARGET_LOSSES = {  # functions of logits: all pixels weighted alike, and weighted by class within each image
    'max_square': (adaptation.max_square_loss, adaptation.image_weighted_max_square_loss),
    'entropy': (adaptation.entropy_loss, adaptation.image_weighted_entropy_loss),  # MinEnt
}


def guidance(main: Tensor, auxiliary: Tensor, threshold: float) -> Tensor:
    """Return the labels (N, H, W) that teach the lower of two levels: the class of their mean probabilities.

    A pixel is labelled only if the confidence of at least one level exceeds `threshold`; otherwise it is 255.

    Args:
        main: Logits (N, K, H, W) of the upper level.
        auxiliary: Logits of the lower level, same shape.
        threshold: A probability.
    """
    with torch.no_grad():
        first, second = main.float().softmax(1), auxiliary.float().softmax(1)
        sure = (first.amax(1) > threshold) | (second.amax(1) > threshold)
        return torch.where(sure, (first + second).argmax(1), IGNORE)


@MODELS.register_module()
class MaxSquareUDA(UDASegmentor):
    """Trains on the source labels, and towards confident predictions on target images.

        L = L_source + target_weight * (L_target(main) + sum over auxiliary heads of level_weight * CE(head, guidance))

    Source and target pass the network one after the other, as in the authors' code, so batch norms in training see each
    domain separately. The losses of style layers and recipes are computed on the source only.

    Args:
        *args: Arguments of `StyleNormEncoderDecoder`.
        target_weight: Weight of the target losses: 0.1 in the authors' scripts, 0.09 with several levels.
        target_loss: 'max_square', or 'entropy' (MinEnt).
        image_weighted: Whether rare classes of an image count more, see `image_weighted_max_square_loss`.
        ratio: See `image_weighted_max_square_loss`.
        level_weight: Weight of the auxiliary heads' target loss; 0 turns multi-level adaptation off. The weight of
            their source loss is the `loss_weight` in their own config, 0.1 in the authors' code.
        threshold: See `guidance`; 0.95 in the authors' code.
        **kwargs: Arguments of `StyleNormEncoderDecoder`.

    Raises:
        ValueError: `target_loss` is unknown, or pAdaIN has the mode 'source_target', which would pair source images
            here.
    """

    def __init__(
        self,
        *args: object,
        target_weight: float = 0.1,
        target_loss: str = 'max_square',
        image_weighted: bool = False,
        ratio: float = 0.2,
        level_weight: float = 0.1,
        threshold: float = 0.95,
        **kwargs: object,
    ) -> None:
        if target_loss not in TARGET_LOSSES:
            raise ValueError(f'MaxSquareUDA: {unknown("target_loss", target_loss, TARGET_LOSSES)}')
        super().__init__(*args, **kwargs)
        if any(getattr(layer, 'mode', None) == 'source_target' for _, layer in style_layers(self)):
            raise ValueError(
                "padain's mode 'source_target' belongs to FADA, whose batches hold both domains in one pass"
            )
        self.target_weight, self.level_weight, self.threshold = target_weight, level_weight, threshold
        self.target_loss, self.image_weighted, self.ratio = target_loss, image_weighted, ratio

    def adapt(self, inputs: Tensor, data_samples: SampleList, target: Tensor) -> dict[str, Tensor]:
        losses = self.loss(inputs, data_samples)
        features = self.extract_feat(target)
        style_losses(self)  # collected and dropped, so that none is left for the next step
        size = target.shape[2:]
        main = self.logits(self.decode_head, features, size)
        plain, weighted = TARGET_LOSSES[self.target_loss]
        loss = weighted(main, self.ratio) if self.image_weighted else plain(main)
        losses[f'target.loss_{self.target_loss}'] = self.target_weight * loss
        for k, head in enumerate(self.auxiliary_heads if self.level_weight else []):
            logits = self.logits(head, features, size)
            labels = guidance(main, logits, self.threshold)
            total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction='sum')
            mean = total / (labels != IGNORE).sum().clamp(min=1)
            losses[f'target.aux_{k}.loss_ce'] = self.target_weight * self.level_weight * mean
        return losses
