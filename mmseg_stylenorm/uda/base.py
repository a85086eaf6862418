"""The common base of segmentors that learn from labelled source images and unlabelled target images."""

from collections.abc import Sequence
from typing import Any, TypedDict

import torch.nn.functional as F
from mmseg.models import SegDataPreProcessor
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor

from ..segmentors import StyleNormEncoderDecoder

_PLAIN = ('SegDataPreProcessor', 'mmseg.SegDataPreProcessor', SegDataPreProcessor)


@MODELS.register_module()
class UDADataPreProcessor(SegDataPreProcessor):
    """mmseg's `SegDataPreProcessor` for both parts of a `UDADataset` batch; `size` applies to the source only.

    Target images are padded only to the largest image of their batch. Their pipeline should give all of them the same
    size, since the model would adapt to padding as to any other content.
    """

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.target = SegDataPreProcessor(**{**kwargs, 'size': None, 'size_divisor': kwargs.get('size_divisor') or 1})

    def forward(self, data: dict[str, object], training: bool = False) -> dict[str, object]:
        """Return mmseg's result, in training with the additional key `target`: dict(inputs=..., data_samples=...).

        Raises:
            ValueError: A training batch has no target images.
        """
        done = super().forward(data, training)
        if not training:
            return done
        if 'target' not in data:
            raise ValueError("a batch without target images: train_dataloader.dataset must be dict(type='UDADataset')")
        return {**done, 'target': self.target(data['target'], training)}


class Target(TypedDict):
    """The target part of a training batch."""

    inputs: Tensor
    data_samples: SampleList


class UDASegmentor(StyleNormEncoderDecoder):
    """Takes the keys of `StyleNormEncoderDecoder`; a subclass computes the losses of source and target in `adapt`.

    A checkpoint has the keys of the plain segmentor, so it is tested with that segmentor's config. mmseg's
    `SegDataPreProcessor` is replaced by `UDADataPreProcessor`.
    """

    def __init__(self, *args: object, data_preprocessor: object = None, **kwargs: Any) -> None:
        if isinstance(data_preprocessor, dict) and data_preprocessor.get('type') in _PLAIN:
            data_preprocessor = {**data_preprocessor, 'type': 'UDADataPreProcessor'}
        super().__init__(*args, data_preprocessor=data_preprocessor, **kwargs)

    def forward(
        self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor', target: Target | None = None
    ) -> Tensor | SampleList | dict[str, Tensor]:
        """mmseg's `forward` with the additional input `target`, which `UDADataPreProcessor` adds to training batches.

        Raises:
            ValueError: A training batch has no target images.
        """
        if mode == 'loss':
            if target is None:
                raise ValueError(
                    f'{type(self).__name__}: no target images have arrived: data_preprocessor must be '
                    "dict(type='UDADataPreProcessor') or mmseg's SegDataPreProcessor"
                )
            return self.adapt(inputs, data_samples, target['inputs'])
        return super().forward(inputs, data_samples, mode)

    def adapt(self, inputs: Tensor, data_samples: SampleList, target: Tensor) -> dict[str, Tensor]:
        """Return all losses of a training batch.

        Args:
            inputs: source images (N, 3, H, W).
            data_samples: their labels.
            target: target images (N, 3, H', W').
        """
        raise NotImplementedError

    def logits(self, head: BaseDecodeHead, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return a head's logits (N, K, *size)."""
        return F.interpolate(head(features), size, mode='bilinear', align_corners=head.align_corners)

    @property
    def auxiliary_heads(self) -> list[BaseDecodeHead]:
        """The auxiliary heads as a list, which may be empty."""
        if not self.with_auxiliary_head:
            return []
        many = hasattr(self.auxiliary_head, '__iter__')
        return list(self.auxiliary_head) if many else [self.auxiliary_head]
