"""Predictions as PNG files, one for each image, wherever the images are stored."""

import io
import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from PIL import Image
from torch import Tensor

from timm_stylenorm.files import atomic_write


class Sample(TypedDict, total=False):
    """The keys that are read from a data sample of mmseg, converted to a dict."""

    img_path: str
    domain: str
    reduce_zero_label: bool
    pred_sem_seg: dict[str, Tensor]
    gt_sem_seg: dict[str, Tensor]


def prediction_file(image: str, domain: str = '', folder: str | None = None) -> Path:
    """Return the path of an image's prediction file, relative to the folder of all predictions.

    In the domain's folder, it is the image's path relative to `folder`, with the suffix replaced. If the image is not
    in `folder`, or `folder` is None, the file name keeps the whole path and the suffix, so that no two images share a
    file.

    Args:
        image: Path of the image.
        domain: Name of its domain, if it has one.
        folder: See `datasets.domains.image_folder`.
    """
    path = Path(osp.abspath(image))
    if folder is not None and path.is_relative_to(osp.abspath(folder)):
        return Path(domain, path.relative_to(osp.abspath(folder)).with_suffix('.png'))
    name = path.name if path.suffix == '.png' and not Path(path.stem).suffix else f'{path.name}.png'
    return Path(domain, path.relative_to(path.anchor).with_name(name))


def save_prediction(sample: Sample, output_dir: str, folders: Mapping[str, str] | None) -> Path:
    """Write a prediction as a PNG of class ids; return the file's path.

    Args:
        sample: A data sample of mmseg as a dict, with `pred_sem_seg`, `img_path` and maybe `domain`. As in mmseg, if
            `reduce_zero_label` is set, the ids are written as in the label files.
        output_dir: Folder of all predictions.
        folders: Folders of images by domain, `metainfo['image_folders']` of `MultiDomainDataset`.
    """
    domain = sample.get('domain', '')
    file = Path(output_dir, prediction_file(sample['img_path'], domain, (folders or {}).get(domain)))
    ids = sample['pred_sem_seg']['data'].squeeze(0).cpu().numpy() + int(bool(sample.get('reduce_zero_label')))
    file.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.fromarray(ids.astype(np.uint8)).save(content, format='PNG')
    with atomic_write(file) as part:
        part.write_bytes(content.getbuffer())
    return file


@METRICS.register_module()
class SavePredictions(BaseMetric):
    """Computes no metric, but writes every prediction to a file, see `save_prediction`.

    mmseg's `IoUMetric(output_dir=...)`, in contrast, writes images of the same name from several folders to one file.

    Args:
        output_dir: Folder of all predictions.
    """

    default_prefix = 'predictions'

    def __init__(self, output_dir: str) -> None:
        super().__init__()
        self.output_dir = output_dir

    def process(self, data_batch: object, data_samples: Sequence[Sample]) -> None:
        """Write the predictions of a batch. `data_samples` are mmseg's, as dicts."""
        for sample in data_samples:
            if not sample.get('unread'):
                save_prediction(sample, self.output_dir, (self.dataset_meta or {}).get('image_folders'))
            self.results.append(None)

    def compute_metrics(self, results: list[None]) -> dict[str, float]:
        """Return no metric."""
        return {}
