"""Instance whitening: instance norm with a loss on the covariances between channels, as in RobustNet.

Choi, Jung, Yun, Kim, Kim, Choo, 'RobustNet: Improving Domain Generalization in Urban-Scene Segmentation via Instance
Selective Whitening', CVPR 2021, arXiv:2103.15597.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import Tensor

from ..functional import covariance, instance_norm, whitening_loss
from .arguments import check, check_count, check_range
from .kmeans import split_by_variance
from .norms import NormLayer


class InstanceWhitening(NormLayer):
    """Instance norm without an affine map and, in training, the instance relaxed whitening loss (IRW).

    y = (x - m) / sqrt(v + eps); m, v: instance mean and biased variance, in training and evaluation alike.
    x, y: (N, C, *spatial). The loss `functional.whitening_loss` of y over all pairs of channels, times `loss_weight`,
    is stored in `aux`. The layers that `add_style` puts into a model share the weight: the authors average over layers.

    Args:
        num_features: C.
        loss_weight: Weight of the loss.
        relax: The loss tolerates covariances up to a sum of (number of pairs) / relax; 0: no tolerance. The authors'
            scripts use 64 when training on GTA5, 32 on Cityscapes, and 0 with `loss_weight=0.8` for their plain
            instance whitening (IW). Their command line's default, 2, makes the loss 0 on street scenes.
        eps: Added to the variance.

    Raises:
        ValueError: `num_features` or `eps` not positive, `loss_weight` or `relax` negative.
    """

    share = 1.0

    def __init__(self, num_features: int, loss_weight: float = 0.6, relax: float = 64.0, eps: float = 1e-5) -> None:
        super().__init__()
        check_range(self, 0, loss_weight=loss_weight, relax=relax)
        check(self, num_features=num_features, eps=eps)
        self.num_features, self.loss_weight, self.relax, self.eps = num_features, loss_weight, relax, eps

    @classmethod
    def configure_group(cls, layers: Sequence[InstanceWhitening]) -> None:
        for layer in layers:
            layer.share = 1 / len(layers)

    def from_plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def loss_terms(self) -> tuple[str, ...]:
        return ('whitening',) if self.loss_weight else ()

    def has_loss(self) -> bool:
        return self.loss_weight > 0

    def pairs(self, x: Tensor) -> Tensor | None:
        """The channel pairs whose covariance the loss reduces, (C, C) of 0 and 1 above the diagonal, or None."""
        return torch.ones(self.num_features, self.num_features, device=x.device).triu(1)

    def restyle(self, x: Tensor) -> Tensor:
        one, zero = x.new_ones(self.num_features), x.new_zeros(self.num_features)
        y = instance_norm(x, one, zero, self.eps)
        if self.training and self.enabled:
            mask = self.pairs(x)
            if mask is not None:
                margin = mask.sum() // self.relax if self.relax else 0.0
                self.aux = self.loss_weight * self.share * whitening_loss(y, mask, margin)
                return y.clone()  # an in-place activation may follow
        return y

    def extra_repr(self) -> str:
        return f'{self.num_features}, loss_weight={self.loss_weight}, relax={self.relax}, eps={self.eps}'


class SelectiveWhitening(InstanceWhitening):
    """Instance selective whitening (ISW): the loss looks only at covariances that react to a change of style.

    It starts without pairs, and therefore without a loss. After some epochs of training, the pairs that react are
    estimated in evaluation mode from images and photometric transformations of them: see `timm_stylenorm.whitening`, or
    `ISWHook` for mmengine. The choice is part of the state dict.

    Args:
        num_features: C.
        loss_weight: Weight of the loss.
        clusters: Number of k-means clusters of the covariances' variances; all clusters but the lowest are chosen.
        eps: Added to the variance.

    Raises:
        ValueError: `num_features` or `eps` not positive, `loss_weight` negative, or fewer than 2 clusters.
    """

    training_only = ('mask',)
    waits_for = 'pairs'
    mask: Tensor
    observing = False
    chosen = 0  # number of pairs, kept on the host so that a forward pass does not query the device

    def __init__(self, num_features: int, loss_weight: float = 0.6, clusters: int = 3, eps: float = 1e-5) -> None:
        super().__init__(num_features, loss_weight, 0.0, eps)
        check_count(self, 2, clusters=clusters)
        self.clusters = clusters
        self.register_buffer('mask', torch.zeros(num_features, num_features, dtype=torch.bool))
        self.variance: Tensor | None = None  # sum over batches while it is estimated
        self.batches = 0

    def loss_terms(self) -> tuple[str, ...]:
        return tuple(f'{term}{"" if self.chosen else " once pairs are chosen"}' for term in super().loss_terms())

    def is_waiting(self) -> bool:
        return not self.chosen and super().is_waiting()

    def has_loss(self) -> bool:
        return bool(self.chosen) and super().has_loss()

    def pairs(self, x: Tensor) -> Tensor | None:
        return self.mask.to(torch.promote_types(x.dtype, torch.float32)) if self.chosen else None

    def restyle(self, x: Tensor) -> Tensor:
        y = super().restyle(x)
        if self.observing:
            self.observe(y)
        return y

    @torch.no_grad()
    def observe(self, y: Tensor) -> None:
        """Add the observation of a batch; `restyle` calls this while `observing` is true.

        Args:
            y: The normalised map, (2N, C, *spatial), of images and their transformations.
        """
        variance = covariance(y).triu(1).var(0)
        self.variance = variance if self.variance is None else self.variance + variance
        self.batches += 1

    def reacting(self) -> Tensor:
        """The pairs that react according to the observed batches, (C, C) of bool; the observations are then dropped.

        Raises:
            RuntimeError: Nothing was observed.
        """
        if self.variance is None:
            raise RuntimeError('SelectiveWhitening.reacting: no batch was observed')
        found = split_by_variance(self.variance / self.batches, self.clusters)
        self.forget()
        return found

    def choose(self, pairs: Tensor) -> int:
        """Restrict the loss to these pairs, (C, C) of bool above the diagonal, and return their number."""
        self.mask.copy_(pairs)
        self.chosen = int(self.mask.sum())
        return self.chosen

    def forget(self) -> None:
        """Drop the observations."""
        self.variance, self.batches = None, 0

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.chosen = 0 if self.mask.is_meta else int(self.mask.sum())

    def extra_repr(self) -> str:
        return f'{self.num_features}, loss_weight={self.loss_weight}, clusters={self.clusters}, eps={self.eps}'
