"""mmseg's segmentors with one more key, `style`.

    model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', sites=('stage1', 'stage2', 'stage3')))

`style` is a method's name, a dict whose `type` is the name, or a list of them, as for `timm_stylenorm.add_style`. It
restyles the backbone. The names of the backbone's own parameters stay, so `pretrained` and `init_cfg` go on working.
"""

from typing import Any

import torch
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from timm_stylenorm import add_style, style_losses
from timm_stylenorm.engine import StyleLossMixin
from timm_stylenorm.losses import check_heads


def _plain(style: Any) -> Any:
    """Config objects to plain dicts and lists, without mmengine's `_scope_` marks."""
    if isinstance(style, dict):
        return {key: _plain(value) for key, value in style.items() if key != '_scope_'}
    return [_plain(item) for item in style] if isinstance(style, list) else style


class StyledSegmentor(StyleLossMixin):
    """Adds `style` to the backbone and its losses to the segmentor's; put it before an mmseg segmentor in the bases.

    Args:
        *args: of the segmentor.
        style: name, dict or list of them; `None` collects only the losses that the backbone brings itself
            (`TIMMBackbone(model_name='resnet50_snr')`, SNR plugins).
        **kwargs: of the segmentor.

    Raises:
        ValueError: an unknown method, site or option in `style`; the message names what is near.
    """

    backbone: nn.Module

    def __init__(self, *args: Any, style: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if style is not None:
            add_style(self.backbone, _plain(style))
            check_heads(self.backbone, self.num_classes, dense=True)  # type: ignore[has-type, attr-defined]
            self.backbone.train(self.backbone.training)  # frozen stages freeze what was just added, too

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Any]:
        """Losses of the heads and of the style layers.

        Args:
            inputs: images (N, 3, H, W).
            data_samples: with ground truth (1, H, W), where 255 is ignored.

        Returns:
            mmseg's losses and `style.<method>.<site>`, already weighted. They are part of the total.
        """
        losses = super().loss(inputs, data_samples)  # type: ignore[misc]
        target = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
        style = style_losses(self, target, ignore_index=255)  # type: ignore[arg-type]
        return {**losses, **{f'style.{name}': value for name, value in style.items()}}


@MODELS.register_module()
class StyleNormEncoderDecoder(StyledSegmentor, EncoderDecoder):
    """mmseg's `EncoderDecoder` with the key `style`."""


@MODELS.register_module()
class StyleNormCascadeEncoderDecoder(StyledSegmentor, CascadeEncoderDecoder):
    """mmseg's `CascadeEncoderDecoder` (OCRNet, PointRend) with the key `style`."""
