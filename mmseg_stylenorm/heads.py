"""A decode head that mmseg lacks: DeepLabV2's."""

from collections.abc import Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DeepLabV2Head(BaseDecodeHead):
    """DeepLabV2's ASPP: logits are the sum of dilated 3x3 convolutions, without norm, activation or hidden layer.

        logits = sum over d in dilations of conv_d(x)

    Weights are initialised as N(0, 0.01), biases as 0. As an auxiliary head on stage 3 (`in_index=2`) it is the second
    level of multi-level adaptation (AdaptSegNet, MaxSquare). The state dict's keys, `conv2d_list.K.weight`, are the
    same as in FADA's classifier and, below `layer5` (auxiliary) and `layer6`, in the networks of MaxSquare and SNR. By
    mistake, SNR's code returns after the second term of the sum, so only dilations 6 and 12 have an effect; its
    checkpoints need `dilations=(6, 12)`. Chen et al., TPAMI 2018, arXiv:1606.00915.

    Args:
        in_channels: Channels of the feature map `in_index`.
        dilations: One 3x3 convolution is built for each.
        dropout_ratio: Dropout of the input; the authors use none.
        **kwargs: Arguments of mmseg's `BaseDecodeHead`, above all `num_classes`.
    """

    def __init__(
        self, in_channels: int, dilations: Sequence[int] = (6, 12, 18, 24), dropout_ratio: float = 0.0, **kwargs: object
    ) -> None:
        kwargs.setdefault('init_cfg', dict(type='Normal', std=0.01, layer='Conv2d'))
        super().__init__(in_channels, channels=in_channels, dropout_ratio=dropout_ratio, **kwargs)
        if not dilations:
            raise ValueError('DeepLabV2Head: expected at least one dilation, got none')
        del self.conv_seg  # no layer follows the sum: it is the logits
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, self.out_channels, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the logits (N, K, H, W) at the resolution of the features."""
        x = self._transform_inputs(inputs)
        if self.dropout is not None:
            x = self.dropout(x)
        return sum((conv(x) for conv in self.conv2d_list[1:]), self.conv2d_list[0](x))
