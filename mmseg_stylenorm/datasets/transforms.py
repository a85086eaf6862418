"""Photometric transforms that mmseg lacks: Gaussian blur, and torchvision's colour jitter."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS
from PIL import Image
from torchvision.transforms import v2


def _image_of(results: dict, asks: str) -> np.ndarray:
    """Return the loaded image.

    Raises:
        TypeError: The image is not (H, W, 3) of uint8.
    """
    image = results['img']
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise TypeError(f'{asks}: expected an image (H, W, 3) of uint8, got {image.shape} of {image.dtype}')
    return image


def _chance(name: str, prob: float) -> float:
    if not 0 <= prob <= 1:
        raise ValueError(f'{name}: prob is a probability, got {prob}')
    return prob


@TRANSFORMS.register_module()
class RandomGaussianBlur(BaseTransform):
    """Blurs `img`, (H, W, 3) of uint8, by a Gaussian of random standard deviation; border pixels are replicated.

    The window reaches 4 deviations, as in scikit-image, which RobustNet's code calls: `prob=1.0, sigma=(0.15, 1.3)`.
    The code of MaxSquare and SNR calls Pillow's `GaussianBlur`, with the deviation as radius: `prob=0.5, sigma=(0, 1)`.
    Pillow approximates the Gaussian by boxes: pixels of smooth images differ by at most 3 of 255. Random numbers come
    from torch's generator.

    Args:
        prob: Probability that an image is blurred.
        sigma: Range in pixels from which the deviation is drawn uniformly.

    Raises:
        ValueError: `prob` is not a probability, or `sigma` is not a range of deviations.
    """

    def __init__(self, prob: float = 0.5, sigma: Sequence[float] = (0.15, 1.3)) -> None:
        self.prob = _chance('RandomGaussianBlur', prob)
        low, high = sigma
        if not 0 <= low <= high:
            raise ValueError(f'RandomGaussianBlur: sigma is a range of deviations, got {tuple(sigma)}')
        self.sigma = float(low), float(high)

    @cache_randomness
    def draw(self) -> float:
        """Draw the deviation for an image; 0 leaves it unchanged."""
        if torch.rand(()).item() >= self.prob:
            return 0.0
        low, high = self.sigma
        return low + (high - low) * torch.rand(()).item()

    def transform(self, results: dict) -> dict:
        """Changes `img`."""
        image, sigma = _image_of(results, 'RandomGaussianBlur'), self.draw()
        reach = int(4 * sigma + 0.5)
        if reach:  # below a deviation of 1/8 the window is the pixel itself
            window = (2 * reach + 1, 2 * reach + 1)
            results['img'] = cv2.GaussianBlur(image, window, sigma, borderType=cv2.BORDER_REPLICATE)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, sigma={self.sigma})'


@TRANSFORMS.register_module()
class ColorJitter(BaseTransform):
    """torchvision's `ColorJitter`, via Pillow, on `img`, (H, W, 3) of uint8 in BGR, as mmcv loads it.

    Brightness, contrast, saturation and hue are changed in random order. Unlike mmseg's `PhotoMetricDistortion`, it
    changes all of them in every image, brightness by a factor, and contrast around the image's mean.

    Args:
        brightness: The factor is drawn from [max(0, 1 - x), 1 + x], or from the range (low, high).
        contrast: Likewise.
        saturation: Likewise.
        hue: The shift is drawn from [-x, x], or from a range, within [-0.5, 0.5]; 1 is the whole circle.
        prob: Probability that an image is changed: 1.0 in FADA's code, 0.5 in RobustNet's.

    Raises:
        ValueError: An amount is out of range.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0.0,
        contrast: float | Sequence[float] = 0.0,
        saturation: float | Sequence[float] = 0.0,
        hue: float | Sequence[float] = 0.0,
        prob: float = 1.0,
    ) -> None:
        self.prob = _chance('ColorJitter', prob)
        self.jitter = v2.ColorJitter(brightness, contrast, saturation, hue)

    def transform(self, results: dict) -> dict:
        """Changes `img`."""
        image = _image_of(results, 'ColorJitter')
        if torch.rand(()).item() < self.prob:
            rgb = self.jitter(Image.fromarray(np.ascontiguousarray(image[..., ::-1])))
            results['img'] = np.ascontiguousarray(np.asarray(rgb)[..., ::-1])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.jitter.extra_repr()}, prob={self.prob})'
