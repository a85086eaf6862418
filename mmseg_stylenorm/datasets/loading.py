"""Loading transforms whose errors name the faulty file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from timm_stylenorm.datafiles import UNREADABLE

IGNORE = 255
_CURE = 'docs/datasets.md says which of tools/prepare_*.py checks and converts it'


def ids_beyond_a_byte(path: str) -> list[int]:
    """Return the ids above 255 in a local 16-bit PNG, which mmseg's cast to uint8 would wrap; [] for other files."""
    if not os.path.isfile(path):
        return []
    with open(path, 'rb') as file:
        header = file.read(25)
    if not (header.startswith(b'\x89PNG') and header[24:] == b'\x10'):  # byte 24 is the bit depth
        return []
    with Image.open(path) as image:
        ids = np.unique(np.asarray(image))
    return ids[ids > 255].tolist()


def lacks_label(results: dict) -> bool:
    """Return whether this image has no label and is not from a data set, as in mmseg's inference functions.

    Raises:
        ValueError: An image of a data set has no label.
    """
    if 'seg_map_path' in results:
        return False
    if 'sample_idx' in results:  # mmengine's data sets add the index of each item
        raise ValueError(
            f'image {results.get("img_path")} has no label: its data set names no folder of labels '
            '(data_prefix.seg_map_path), and its pipeline loads them'
        )
    return True


@contextmanager
def decoding(path: Callable[[], str], backend_args: dict | None = None) -> Iterator[None]:
    """Context for a pipeline: if it fails because the image file is damaged or empty, the error names the file.

    Raises:
        ValueError: The image cannot be decoded. Other errors are passed on unchanged.
    """
    try:
        yield
    except (AssertionError, OSError, cv2.error) as error:  # mmcv's messages may lack the path
        file = path()
        try:
            data = np.frombuffer(fileio.get(file, backend_args=backend_args), np.uint8)
            whole = data.size > 0 and cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
        except cv2.error:
            whole = False
        if whole:
            raise
        what = 'cannot be decoded; is it cut short?' if data.size else 'is an empty file'
        raise ValueError(f'image {file} {what}') from error


def check_size(results: dict) -> None:
    """Compares `gt_seg_map` (H, W) with the size of the image's file.

    Raises:
        ValueError: The sizes differ; the message names both files.
    """
    label = results['gt_seg_map']
    height, width = results.get('ori_shape', label.shape)[:2]
    if label.shape[:2] != (height, width):
        raise ValueError(
            f'label {results["seg_map_path"]} is {label.shape[1]}x{label.shape[0]}, and its image '
            f'{results.get("img_path")} {width}x{height}: they do not belong together, or one of them was turned '
            f'(EXIF); {_CURE}'
        )


class CheckLabelSize(BaseTransform):
    """`check_size` as a transform after a loading step that does not check."""

    def transform(self, results: dict) -> dict:
        """Returns `results` unchanged."""
        if 'gt_seg_map' in results and 'seg_map_path' in results:
            check_size(results)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def check_sizes(pipeline: Compose) -> Compose:
    """Insert `CheckLabelSize` after mmseg's own `LoadAnnotations`, which accepts a label of any size."""
    steps: list[Callable] = []
    for step in pipeline.transforms:
        steps += [step, CheckLabelSize()] if type(step) is LoadAnnotations else [step]
    pipeline.transforms = steps
    return pipeline


@TRANSFORMS.register_module()
class LoadTrainIds(LoadAnnotations):
    """mmseg's `LoadAnnotations` with a check that a label holds only train ids.

    Otherwise, a class id out of range leads to an index error on the device or goes unnoticed. Images that do not come
    from a data set need no label: from their pipelines, mmseg's inference functions only remove a step that is named
    `LoadAnnotations`, not this one.

    Args:
        num_classes: Valid ids are 0..num_classes - 1, and 255, which is ignored.
        **kwargs: See mmseg's `LoadAnnotations`.

    Raises:
        FileNotFoundError: If the label does not exist.
        ValueError: If the label cannot be decoded, is not a map of single ids, differs in size from the image that was
            loaded before it, or holds an id out of range; or if an image of a data set has no label.
    """

    def __init__(self, num_classes: int = 19, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self._valid = np.zeros(256, bool)
        self._valid[:num_classes] = self._valid[IGNORE] = True

    def transform(self, results: dict) -> dict:
        """Adds `gt_seg_map`, (H, W) uint8."""
        return results if lacks_label(results) else super().transform(results)

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        try:
            wide = ids_beyond_a_byte(path)
            super()._load_seg_map(results)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'label {path} does not exist; {_CURE}') from error
        except (*UNREADABLE, AttributeError, cv2.error) as error:  # AttributeError: cv2 decoded None
            raise ValueError(f'label {path} cannot be decoded ({error}); is it truncated? {_CURE}') from error
        label = results['gt_seg_map']
        if label.ndim != 2:
            raise ValueError(f'label {path} has shape {label.shape}, expected (H, W) train ids; {_CURE}')
        check_size(results)
        if wide or not self._valid[label].all():
            ids = np.unique(label)
            wrong = wide or ids[~self._valid[ids]].tolist()
            raise ValueError(
                f'label {path} holds class ids {wrong[:8]}; expected train ids 0..{self.num_classes - 1}, or {IGNORE} '
                f'for pixels to ignore; {_CURE}'
            )

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, num_classes={self.num_classes})'


@TRANSFORMS.register_module()
class ScoreAsShown(BaseTransform):
    """Makes a test score predictions at the size that the network sees, on the resized and cropped label.

    mmseg otherwise scales predictions to the size of the image file, which only fits labels that no transform has
    changed. If an image does not come from a data set, as in mmseg's inference functions, its prediction keeps the size
    of the image file.
    """

    def transform(self, results: dict) -> dict:
        """Sets `ori_shape` to the current size of the image."""
        if 'sample_idx' in results or 'seg_map_path' in results:
            results['ori_shape'] = results['img'].shape[:2]
        return results
