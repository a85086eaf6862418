"""ImageNet weights for which mmengine has no URL scheme.

    model = dict(pretrained='csail://resnet101', backbone=dict(type='ResNetV1c', depth=101, stem_channels=128))

MIT-CSAIL's ResNets have a stem of three 3x3 convolutions of 64, 64 and 128 channels (CSAILVision,
semantic-segmentation-pytorch); the authors of RobustNet and PSPNet start from them. The weights are read with
`weights_only=True`, and the stem's keys are renamed to those of mmseg's `ResNetV1c`.
"""

import re
from logging import Logger

from mmengine.runner import CheckpointLoader
from torch import Tensor
from torch.serialization import MAP_LOCATION

from timm_stylenorm.errors import unknown

SCHEME = 'csail://'
ADDRESSES = {
    name: f'http://sceneparsing.csail.mit.edu/model/pretrained_resnet/{name}-imagenet.pth'
    for name in ('resnet50', 'resnet101')
}
_STEM = re.compile(r'(conv|bn)([123])\.')  # conv1 bn1 relu conv2 bn2 relu conv3 bn3 relu


def to_v1c(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of MIT-CSAIL's ResNets with the keys renamed to those of mmseg's `ResNetV1c`."""

    def name(key: str) -> str:
        stem = _STEM.match(key)
        if not stem:
            return key
        return f'stem.{3 * (int(stem[2]) - 1) + (stem[1] == "bn")}.{key[stem.end() :]}'

    return {name(key): value for key, value in weights.items()}


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_csail(
    filename: str, map_location: MAP_LOCATION = None, logger: Logger | str | None = None
) -> dict[str, Tensor]:
    """Return the state dict of `csail://NAME`, which is downloaded once.

    Raises:
        ValueError: There are no weights with this name.
    """
    name = filename.removeprefix(SCHEME)
    if name not in ADDRESSES:
        raise ValueError(f'{SCHEME}: {unknown("network", name, ADDRESSES)}')
    held = CheckpointLoader.load_checkpoint(ADDRESSES[name], map_location, logger)
    return to_v1c(held.get('state_dict', held))
