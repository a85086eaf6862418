"""What this package asks of mmengine's private parts, and what it mends there."""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from .checkpoint import install_safe_loaders
from .latest import install_resume
from .saving import install_safe_saving


@dataclass(frozen=True)
class ImageFormat:
    """Which images a data preprocessor gets, and what it makes of them.

    Attributes:
        loads_bgr: Whether they arrive with the channels blue, green, red, as mmcv reads files.
        shows_rgb: Whether the network sees red, green, blue.
        mean: The network sees (values in [0, 1] - mean) / std, (C,) each, in the order that it sees.
        std: See `mean`.
    """

    loads_bgr: bool
    shows_rgb: bool
    mean: Tensor
    std: Tensor


def image_format(preprocessor: Any) -> ImageFormat:
    """The image format of a data preprocessor: of this package, mmengine, mmseg, mmdet or mmpretrain.

    Those of OpenMMLab get what mmcv loads, BGR in [0, 255], and may turn the channels around.

    Raises:
        TypeError: A kind of preprocessor that does not say so.
    """
    known = getattr(preprocessor, 'image_format', None)
    if known is not None:
        return known()
    zero, byte = torch.zeros(3), torch.full((3,), 1 / 255)
    if type(preprocessor) is BaseDataPreprocessor:  # it only moves tensors to the device
        return ImageFormat(True, False, zero, byte)
    own = vars(preprocessor) if isinstance(preprocessor, BaseDataPreprocessor) else {}
    names = ('_channel_conversion', 'channel_conversion', 'to_rgb')  # mmengine and onedl's mmseg; mmseg; mmpretrain
    turned = next((own[name] for name in names if name in own), None)
    if turned is None or '_enable_normalize' not in own:
        raise TypeError(
            f'{type(preprocessor).__name__} does not say whether its images are RGB or BGR, nor how they are '
            'normalised: give it a method `image_format` that returns a timm_stylenorm.runner.host.ImageFormat'
        )
    if not own['_enable_normalize']:
        return ImageFormat(True, bool(turned), zero, byte)
    return ImageFormat(True, bool(turned), preprocessor.mean.flatten() / 255, preprocessor.std.flatten() / 255)


def apply_host_fixes() -> None:
    """Mends what stops mmengine from doing its work here; idempotent.

    * `_base_ = 'mmseg::...'` looks for a distribution called mmsegmentation; its maintained continuation is called
      otherwise, so the module's own name is asked for instead.
    * `_base_ = 'mmseg_stylenorm::...'` and `mmengine.hub.get_config` know the packages in a table; ours joins it.
    * checkpoints are read with `weights_only=True`, without a fallback that runs code.
    * checkpoints are saved as plain data, whole, and before the old ones are removed (`saving`).
    * `resume=True` goes on from the newest checkpoint of the work dir, else starts from `load_from` (`latest`).
    """
    try:
        importlib.metadata.distribution('mmsegmentation')
    except importlib.metadata.PackageNotFoundError:
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    MODULE2PACKAGE['mmseg_stylenorm'] = 'mmseg_stylenorm'
    install_safe_loaders()
    install_safe_saving()
    install_resume()
