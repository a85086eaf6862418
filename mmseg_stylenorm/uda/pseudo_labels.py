"""Self-training on labels predicted by a network: hard ones (palette PNG of train ids) or soft ones (.npz).

`tools/make_pseudo_labels.py` writes both. Hard ones are loaded like any other labels, with `LoadTrainIds`, and any
segmentor can train on them, as FADA's authors do.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.datasets.transforms import PackSegInputs
from mmseg.registry import MODELS, TRANSFORMS
from mmseg.utils import SampleList
from PIL import Image
from torch import Tensor

from timm_stylenorm.functional.adaptation import soft_cross_entropy

from ..datasets.loading import lacks_label
from ..segmentors import StyleNormEncoderDecoder

_CURE = 'tools/make_pseudo_labels.py writes it again'


def train_ids_of(dataset: Any) -> np.ndarray:
    """Return the train id of each of the K classes of an mmseg data set, (K,) uint8, in the order of its `metainfo`."""
    count = len(dataset.metainfo['classes'])
    by_class = {new: old for old, new in (dataset.label_map or {}).items()} or {k: k for k in range(count)}
    return np.array([by_class[k] for k in range(count)], np.uint8)


def write_hard(path: Path, label: np.ndarray, palette: Sequence[Sequence[int]]) -> None:
    """Write a label (H, W) uint8 as a PNG that shows id k in the RGB colour palette[k], or black without a colour."""
    image = Image.fromarray(label)
    image.putpalette([*np.ravel(palette).tolist(), *[0] * (768 - np.size(palette))])
    image.save(path, format='PNG')


def write_soft(path: Path, probabilities: Tensor) -> None:
    """Write probabilities (K, H, W) of K classes, in steps of 1/255, to a compressed file."""
    with path.open('wb') as file:  # an open file, since numpy appends .npz to a file name
        np.savez_compressed(file, probabilities=(probabilities * 255).round().byte().cpu().numpy())


def read_soft(path: str | Path, num_classes: int) -> np.ndarray:
    """Read a file of `write_soft`: (K, H, W), uint8. The archive's own checksum is verified.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            soft = arrays['probabilities']
    except FileNotFoundError as error:
        raise FileNotFoundError(f'soft label {path} does not exist; {_CURE}') from error
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f'soft label {path} cannot be read ({error}); {_CURE}') from error
    if soft.ndim != 3 or len(soft) != num_classes or soft.dtype != np.uint8:
        raise ValueError(
            f'soft label {path} has shape {soft.shape} and type {soft.dtype}, expected ({num_classes}, H, W) of uint8'
        )
    return soft


def _check_stride(label: tuple[int, ...], results: dict) -> None:
    """Check a soft label's size, which must be the image file's size divided by an integer stride, rounded up."""
    height, width = results.get('ori_shape', results['img'].shape)[:2]
    strides = range(1, max(height, width) + 1)
    if not any(label == (-(-height // stride), -(-width // stride)) for stride in strides):
        raise ValueError(
            f'soft label {results["seg_map_path"]} is {label[1]}x{label[0]}, and its image {results.get("img_path")} '
            f'{width}x{height}: they do not belong together; {_CURE}'
        )


@TRANSFORMS.register_module()
class LoadSoftLabels(BaseTransform):
    """Loads `seg_map_path` as `gt_soft`, (H, W, K) uint8 of the image's size, and its argmax classes as `gt_seg_map`.

    Both are transformed together with the image by mmseg's transforms. Put this after the loading of the image, and
    `PackSoftLabels` last. Images that do not come from a data set need no label, see `LoadTrainIds`.

    Args:
        num_classes: K, at least 2.

    Raises:
        FileNotFoundError: The label does not exist.
        ValueError: The label is damaged, holds something else, or belongs to another image: no integer stride explains
            its size.
    """

    def __init__(self, num_classes: int = 19) -> None:
        self.num_classes = num_classes

    def transform(self, results: dict) -> dict:
        if lacks_label(results):
            return results
        height, width = results['img'].shape[:2]
        soft = read_soft(results['seg_map_path'], self.num_classes).transpose(1, 2, 0)
        _check_stride(soft.shape[:2], results)
        soft = cv2.resize(np.ascontiguousarray(soft), (width, height), interpolation=cv2.INTER_LINEAR)
        results['gt_soft'], results['gt_seg_map'] = soft, soft.argmax(2).astype(np.uint8)
        results['seg_fields'] = [*results.get('seg_fields', []), 'gt_seg_map', 'gt_soft']
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes})'


@TRANSFORMS.register_module()
class PackSoftLabels(PackSegInputs):
    """mmseg's `PackSegInputs`, with `gt_soft` in the data sample: (K, H, W), uint8.

    It is 0 where a transform has set `gt_seg_map` to 255, the ignored label, and where mmcv's `Pad`, which pads only
    `gt_seg_map`, has enlarged it.
    """

    def transform(self, results: dict) -> dict:
        packed = super().transform(results)
        if 'gt_soft' not in results and lacks_label(results):
            return packed
        label, shown = results['gt_seg_map'], results['gt_soft']
        soft = np.zeros((shown.shape[2], *label.shape), np.uint8)
        soft[:, : shown.shape[0], : shown.shape[1]] = shown.transpose(2, 0, 1)
        soft[:, label == 255] = 0
        packed['data_samples'].gt_soft = PixelData(data=torch.from_numpy(soft))
        return packed


@MODELS.register_module()
class SelfDistillation(StyleNormEncoderDecoder):
    """Trains the decode head on the soft labels of `PackSoftLabels` with cross entropy; pixels without any are ignored.

    Auxiliary heads and style layers learn from their argmax classes. Takes the keys of `StyleNormEncoderDecoder`.
    """

    def _decode_head_forward_train(self, inputs: list[Tensor], data_samples: SampleList) -> dict[str, Tensor]:
        padded = [F.pad(s.gt_soft.data, s.metainfo.get('padding_size', (0, 0, 0, 0))) for s in data_samples]
        labels = torch.stack(padded).float()
        labels = labels / labels.sum(1, keepdim=True).clamp(min=1)
        logits = F.interpolate(
            self.decode_head(inputs), labels.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        return {'decode.loss_soft': soft_cross_entropy(logits, labels)}
