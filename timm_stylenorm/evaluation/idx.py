"""The idx format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np


def read_idx(path: Path) -> np.ndarray:
    """The array of uint8 in an idx file, gzipped or not.

    Raises:
        ValueError: the file is not an idx file of bytes, is damaged, or is cut short.
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


def find_idx(root: str, name: str) -> Path:
    for folder in (Path(root), Path(root) / 'raw', Path(root) / 'FashionMNIST' / 'raw'):
        for path in (folder / name, folder / f'{name}.gz'):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"no '{name}' or '{name}.gz' in '{root}': set data_root to the folder that holds it. On Debian, "
        f'`apt-get install dataset-fashion-mnist` puts Fashion-MNIST into /usr/share/datasets/fashion-mnist'
    )
