"""DAFormer's sampling of images and crops that show rare classes."""

import numpy as np
import torch
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from torch.utils.data import Dataset

from .sampling import CACHE, class_pixels


def rare_class_probabilities(pixels: np.ndarray, temperature: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes that occur, in ascending order of their pixels, and DAFormer's probability of each.

        P(c) = softmax over c of (1 - f_c) / T,    f_c: share of class c in all labelled pixels

    Hoyer et al., CVPR 2022, arXiv:2111.14887, Eq. (8) and (9).

    Args:
        pixels: Pixel counts (N, K), see `class_pixels`.
        temperature: T.
    """
    total = pixels.sum(0)
    classes = np.argsort(total, kind='stable')
    classes = classes[total[classes] > 0]
    scaled = (1 - total[classes] / total.sum()) / temperature
    weights = np.exp(scaled - scaled.max())
    return classes, weights / weights.sum()


@DATASETS.register_module()
class RareClassDataset(Dataset):
    """DAFormer's rare-class sampling: an item is a crop that shows a randomly drawn class.

    A class is drawn with `rare_class_probabilities`, then an image among those with more than `min_pixels` pixels of
    it. The pipeline runs until the crop has more than `min_pixels * crop_ratio` pixels of it; the last of `attempts`
    crops is taken anyway. The index does not select the image. With it as the source of a `UDADataset`
    (`source=dict(type='RareClassDataset', dataset=...)`), the data set is DAFormer's. Random numbers come from torch's
    generator. Hoyer et al., CVPR 2022, arXiv:2111.14887.

    Args:
        dataset: An mmseg data set with labels, or its config.
        temperature: T; if it is low, almost only rare classes are drawn.
        min_pixels: Pixels of the class in the full-size label.
        crop_ratio: See above.
        attempts: Maximum number of runs of the pipeline; 11 in the authors' code.
        cache: See `class_pixels`.

    Raises:
        ValueError: No image has enough pixels of a class that occurs, or a number is out of range.
    """

    def __init__(
        self,
        dataset: dict | BaseSegDataset,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        crop_ratio: float = 0.5,
        attempts: int = 11,
        cache: str | None = CACHE,
    ) -> None:
        if temperature <= 0 or attempts < 1:
            raise ValueError(f'RareClassDataset: temperature {temperature} and attempts {attempts} must be positive')
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        pixels = class_pixels(self.dataset, cache)
        self.classes, self.probabilities = rare_class_probabilities(pixels, temperature)
        self.images = {int(c): (pixels[:, c] > min_pixels).nonzero()[0] for c in self.classes}
        for c, images in self.images.items():
            if not len(images):
                raise ValueError(
                    f'RareClassDataset: no image has more than min_pixels={min_pixels} pixels of class '
                    f'{self.metainfo["classes"][c]!r}; the most are {pixels[:, c].max()}'
                )
        self.needed, self.attempts = min_pixels * crop_ratio, attempts

    @property
    def metainfo(self) -> dict:
        """Meta information of the data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Lists the files if `lazy_init` postponed that."""
        self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def draw(self, index: int = 0) -> tuple[int, int]:
        """Draw a class and an image of it. With `index`, processes with equal generator states draw differently."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())) + index)
        c = int(rng.choice(self.classes, p=self.probabilities))
        return c, int(rng.choice(self.images[c]))

    def __getitem__(self, index: int) -> dict[str, object]:
        c, image = self.draw(index)
        for _ in range(self.attempts):
            item = self.dataset[image]
            if (item['data_samples'].gt_sem_seg.data == c).sum() > self.needed:
                break
        return item
