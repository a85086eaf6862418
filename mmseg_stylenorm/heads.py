"""The decode head that mmseg lacks: DeepLabV2's."""

from collections.abc import Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """Classifies by the sum of dilated 3x3 convolutions: ASPP of DeepLabV2, without norm, activation or hidden layer.

        logits = sum over d in dilations of conv_d(x)

    Weights start as N(0, 0.01), biases as 0. As an auxiliary head on stage 3 (`in_index=2`) it is the second level of
    multi-level adaptation (AdaptSegNet, MaxSquare). Keys are those of FADA's classifier and, below `layer5` (auxiliary)
    and `layer6`, of the networks of MaxSquare and SNR: `conv2d_list.K.weight`. SNR's code returns after the second
    term of the sum by a slip, so that only dilations 6 and 12 act there; `dilations=(6, 12)` is what its checkpoints
    were trained as. Chen et al., TPAMI 2018, arXiv:1606.00915.

    Args:
        in_channels: Channels of the map `in_index`.
        dilations: One convolution each.
        dropout_ratio: Of the input; the authors have none.
        **kwargs: Of mmseg's `BaseDecodeHead`, above all `num_classes`.
    """

    def __init__(
        self, in_channels: int, dilations: Sequence[int] = (6, 12, 18, 24), dropout_ratio: float = 0.0, **kwargs: object
    ) -> None:
        kwargs.setdefault('init_cfg', dict(type='Normal', std=0.01, layer='Conv2d'))
        super().__init__(in_channels, channels=in_channels, dropout_ratio=dropout_ratio, **kwargs)
        if not dilations:
            raise ValueError('DeepLabV2Head: expected at least one dilation, got none')
        del self.conv_seg  # there is nothing between the sum and the logits
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, self.out_channels, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (N, K, H, W) at the resolution of the features."""
        x = self._transform_inputs(inputs)
        if self.dropout is not None:
            x = self.dropout(x)
        return sum((conv(x) for conv in self.conv2d_list[1:]), self.conv2d_list[0](x))
