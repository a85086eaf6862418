"""The backbone that mmseg lacks: DeepLabV2's in the code of AdaptSegNet, MaxSquare and SNR."""

from typing import Any

from mmseg.models.backbones import ResNet
from mmseg.registry import MODELS


@MODELS.register_module()
class DeepLabResNet(ResNet):
    """mmseg's `ResNet`, whose max pooling rounds sizes up, as Caffe does: 1280x720 becomes 321x181 and not 320x180.

    With `style='caffe'`, `strides=(1, 2, 1, 1)`, `dilations=(1, 1, 2, 4)` and `contract_dilation=False` it computes
    what their networks compute, and has the names of their parameters.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.maxpool.ceil_mode = True
