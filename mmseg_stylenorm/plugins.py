"""Style layers as plugins of mmseg's bottleneck blocks.

    plugins=[dict(cfg=dict(type='SNR', reduction=16), stages=(True, True, True, False), position='after_conv3')]

A plugin sits inside every block of its stages, where `style=` puts one layer after each stage. Its losses are collected
by the StyleNorm segmentors; with mmseg's own `EncoderDecoder` the layer restyles, but its losses are not trained.
"""

from typing import Any

from mmengine.registry import MODELS

from timm_stylenorm import layers


@MODELS.register_module()
class SNR(layers.SNR):
    """`SNR` under the argument name that mmcv's plugins get.

    Args:
        in_channels: channels of the map.
        **kwargs: of `timm_stylenorm.layers.SNR`. For the dual causality loss of a segmentor give `num_classes` and
            `dense=True`.
    """

    _abbr_ = 'snr'

    def __init__(self, in_channels: int, **kwargs: Any) -> None:
        super().__init__(in_channels, **kwargs)
