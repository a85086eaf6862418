"""Resizing and cropping transforms after RobustNet's code (transforms/joint_transforms.py)."""

from collections.abc import Callable, Sequence

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness
from mmseg.registry import TRANSFORMS

from .class_uniform import Centroid
from .loading import IGNORE


def crop_place(
    size: Sequence[int], crop: Sequence[int], centroid: Sequence[int] | None, draw: Callable[[int, int], int]
) -> tuple[int, int]:
    """Return left and top of a random crop.

    Without a centroid, the crop lies anywhere in the image. With one, its left and top are drawn between one crop size
    before the centroid and the centroid itself, then clipped to the image; a draw at the lower end leaves the centroid
    one pixel outside of the crop.

    Args:
        size: Width and height of the image, at least those of the crop.
        crop: Width and height of the crop.
        centroid: Its column and row, or None.
        draw: Function that returns an integer from the lowest to the highest number passed in, both included. The left
            is drawn first.
    """
    place = []
    for axis in (0, 1):
        room = size[axis] - crop[axis]
        if centroid is not None:
            place.append(min(room, max(0, draw(centroid[axis] - crop[axis], centroid[axis]))))
        else:
            place.append(draw(0, room) if room else 0)
    return place[0], place[1]


def _resize(results: dict, width: int, height: int) -> None:
    """Resize images by Pillow's bicubic filter, which antialiases when shrinking, labels by nearest neighbour."""
    results['img'] = mmcv.imresize(results['img'], (width, height), interpolation='bicubic', backend='pillow')
    for key in results.get('seg_fields', []):
        results[key] = mmcv.imresize(results[key], (width, height), interpolation='nearest', backend='pillow')
    results['img_shape'] = results['img'].shape[:2]


@TRANSFORMS.register_module()
class RandomScaleCrop(BaseTransform):
    """Randomly scales and crops an image and its label, around the centroid if a `ClassUniformSampler` drew one.

    The factor is uniform over `ratio_range`; scaled sizes and centroids are truncated. If a side is shorter than the
    crop's, both of its ends are padded by half of the difference plus one pixel, with black and with the ignored label;
    as in the authors' code, the padding does not shift the centroid. Random numbers come from torch's generator.

    Args:
        crop_size: Height and width, or one number for both.
        ratio_range: Range of the factor.

    Raises:
        ValueError: `ratio_range` is not a range of positive factors, or `crop_size` is not positive.
    """

    def __init__(self, crop_size: int | Sequence[int], ratio_range: Sequence[float] = (0.5, 2.0)) -> None:
        height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        low, high = ratio_range
        if min(height, width) < 1 or not 0 < low <= high:
            raise ValueError(
                'RandomScaleCrop: expected a positive size and a range of positive factors, '
                f'got {crop_size} and {tuple(ratio_range)}'
            )
        self.crop_size, self.ratio_range = (height, width), (float(low), float(high))

    @cache_randomness
    def draw_ratio(self) -> float:
        """Draw the factor for an image."""
        low, high = self.ratio_range
        return low + (high - low) * torch.rand(()).item()

    @cache_randomness
    def draw_place(self, size: tuple[int, int], centroid: tuple[int, int] | None) -> tuple[int, int]:
        """Draw left and top, see `crop_place`."""
        return crop_place(size, self.crop_size[::-1], centroid, lambda a, b: int(torch.randint(a, b + 1, ())))

    def transform(self, results: dict) -> dict:
        """Changes `img`, the labels and `img_shape`."""
        index, ratio = results.get('sample_idx'), self.draw_ratio()
        height, width = (int(side * ratio) for side in results['img'].shape[:2])
        centroid = (int(index.x * ratio), int(index.y * ratio)) if isinstance(index, Centroid) else None
        _resize(results, width, height)
        rows, columns = self.crop_size
        if (height, width) == self.crop_size:
            return results
        y, x = ((crop - side) // 2 + 1 if side < crop else 0 for crop, side in ((rows, height), (columns, width)))
        left, top = self.draw_place((width + 2 * x, height + 2 * y), centroid)
        for key, value in (('img', 0), *((key, IGNORE) for key in results.get('seg_fields', []))):
            padded = mmcv.impad(results[key], padding=(x, y, x, y), pad_val=value)
            results[key] = np.ascontiguousarray(padded[top : top + rows, left : left + columns])
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={self.crop_size}, ratio_range={self.ratio_range})'


@TRANSFORMS.register_module()
class ResizeHeight(BaseTransform):
    """Scales images and labels to a height; the width is scaled in proportion and truncated.

    Args:
        height: Height in pixels.

    Raises:
        ValueError: `height` is not positive.
    """

    def __init__(self, height: int) -> None:
        if height < 1:
            raise ValueError(f'ResizeHeight: expected a positive height, got {height}')
        self.height = height

    def transform(self, results: dict) -> dict:
        """Changes `img`, the labels and `img_shape`."""
        height, width = results['img'].shape[:2]
        _resize(results, int(width / height * self.height), self.height)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(height={self.height})'
