"""Image sets in the idx format: Fashion-MNIST, MNIST, KMNIST."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mmengine.registry import DATASETS
from PIL import Image

from .data import ImageOptions, LabelledImages

if TYPE_CHECKING:
    from typing_extensions import Unpack

FASHION_CLASSES = (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot',
)  # fmt: skip


@DATASETS.register_module(name=['FashionMNIST', 'IdxImages'])
class IdxImages(LabelledImages):
    """Grey idx images, given as RGB: `train-images-idx3-ubyte[.gz]` and its three siblings.

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
        self.images = read_idx(_find(root, f'{prefix}-images-idx3-ubyte'))[:limit]
        self.labels = read_idx(_find(root, f'{prefix}-labels-idx1-ubyte'))[:limit]
        if len(self.images) != len(self.labels):
            raise ValueError(f'{root}: {len(self.images)} {split} images but {len(self.labels)} labels')
        self.classes = list(classes)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """One image as RGB, and its label."""
        return Image.fromarray(self.images[index]).convert('RGB'), int(self.labels[index])

    def __len__(self) -> int:
        return len(self.images)


def read_idx(path: Path) -> np.ndarray:
    """The array of uint8 in an idx file, gzipped or not.

    Raises:
        ValueError: the file is no idx file of bytes, or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f'{path} is damaged or cut short: {error}') from error
    if len(data) < 4 or data[:3] != b'\0\0\x08':
        raise ValueError(
            f'{path} is no idx file of bytes: it starts with {data[:4].hex()}, expected 00000801 or 00000803'
        )
    shape = np.frombuffer(data, '>u4', count=data[3], offset=4).tolist() if len(data) >= 4 + 4 * data[3] else []
    start = 4 + 4 * data[3]
    if not shape or len(data) - start != math.prod(shape):
        raise ValueError(f'{path} is cut short or too long: its header says {shape}, it holds {len(data)} bytes')
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(root: str, name: str) -> Path:
    for folder in (Path(root), Path(root) / 'raw', Path(root) / 'FashionMNIST' / 'raw'):
        for path in (folder / name, folder / f'{name}.gz'):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"no '{name}' or '{name}.gz' in '{root}': set data_root to the folder that holds it. On Debian, "
        f'`apt-get install dataset-fashion-mnist` puts Fashion-MNIST into /usr/share/datasets/fashion-mnist'
    )
