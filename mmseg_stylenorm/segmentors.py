"""mmseg's segmentors with two more keys, `style` and `recipe`.

    model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', sites=('stage1', 'stage2', 'stage3')))
    model = dict(type='StyleNormEncoderDecoder', recipe=dict(type='advbn', cut='stage1', steps=6))

`style` is a method's name, a dict whose `type` is the name, or a list of these, as for `timm_stylenorm.add_style`. It
restyles the backbone. The backbone's own parameters keep their names, so `pretrained` and `init_cfg` still work.
`recipe` is a training procedure, given as its name or as a dict with the name as `type`, see `timm_stylenorm.recipes`;
the heads count as modules after the backbone.
"""

from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS

from timm_stylenorm.runner.styled import StyledModel

__all__ = ['StyleNormCascadeEncoderDecoder', 'StyleNormEncoderDecoder']


@MODELS.register_module()
class StyleNormEncoderDecoder(StyledModel, EncoderDecoder):
    """mmseg's `EncoderDecoder` with the keys `style` and `recipe`."""


@MODELS.register_module()
class StyleNormCascadeEncoderDecoder(StyledModel, CascadeEncoderDecoder):
    """mmseg's `CascadeEncoderDecoder` (OCRNet, PointRend) with the keys `style` and `recipe`."""
