"""Image sets in the idx format: Fashion-MNIST, MNIST, KMNIST."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmengine.registry import DATASETS
from PIL import Image

from ..evaluation.idx import find_idx, read_idx
from .data import ImageOptions, LabelledImages

if TYPE_CHECKING:
    from typing_extensions import Unpack

FASHION_CLASSES = (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip


@DATASETS.register_module(name=['FashionMNIST', 'IdxImages'])
class IdxImages(LabelledImages):
    """Grey idx images, returned as RGB: `train-images-idx3-ubyte[.gz]` and its three siblings.

    Args:
        root: the folder that holds the files, or one with them in `raw/` or `FashionMNIST/raw/` (torchvision's layout).
            Debian's package dataset-fashion-mnist puts them into /usr/share/datasets/fashion-mnist.
        split: 'train' or 'test'.
        limit: use only the first `limit` images.
        classes: names of the classes.
        **common: `transform`, `domain`, `shift`; see `LabelledImages`.
    """

    def __init__(
        self,
        root: str,
        split: str = 'train',
        limit: int | None = None,
        classes: Sequence[str] = FASHION_CLASSES,
        **common: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**common)
        if split not in ('train', 'test'):
            raise ValueError(f"idx images have the splits 'train' and 'test', not {split!r}")
        prefix = 'train' if split == 'train' else 't10k'
        self.images = read_idx(find_idx(root, f'{prefix}-images-idx3-ubyte'))[:limit]
        self.labels = read_idx(find_idx(root, f'{prefix}-labels-idx1-ubyte'))[:limit]
        if len(self.images) != len(self.labels):
            raise ValueError(f'{root}: {len(self.images)} {split} images but {len(self.labels)} labels')
        self.classes = list(classes)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """One image as RGB, and its label."""
        return Image.fromarray(self.images[index]).convert('RGB'), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.images)
