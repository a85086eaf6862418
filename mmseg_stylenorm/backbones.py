"""A backbone that mmseg lacks: DeepLabV2's, as in the code of AdaptSegNet, MaxSquare and SNR."""

from typing import Any

from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS


@MODELS.register_module()
class DeepLabResNet(ResNet):
    """mmseg's `ResNet` with max pooling that rounds sizes up, as in Caffe: 1280x720 becomes 321x181, not 320x180.

    With `style='caffe'`, `strides=(1, 2, 1, 1)`, `dilations=(1, 1, 2, 4)` and `contract_dilation=False` it computes the
    same as the networks of these authors, and its parameters have the same names.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.maxpool.ceil_mode = True
