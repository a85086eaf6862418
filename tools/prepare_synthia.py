"""Convert the labels of SYNTHIA-RAND-CITYSCAPES to train ids and check every image/label pair.

    python tools/prepare_synthia.py data/synthia [--out FOLDER] [--workers N] [--skip-bad] [--overwrite]

Reads `RGB/NAME.png` and `GT/LABELS/NAME.png` (16 bits; the first channel is the class, the second the instance) and
writes `GT/LABELS/NAME_labelTrainIds.png`. A stopped run continues where it stopped. Every bad pair is listed, with its
reason, in `prepare_report.json`; the exit code is 1 if there is any. With --skip-bad it is 0, and `splits/good.txt`
lists the good pairs, for `StreetsDataset(layout="synthia", ann_file=...)`. --out writes everything to another folder,
in case the data are read-only.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # broken files are reported by this tool

import cv2
import numpy as np
from cli import converter_parser
from labels.pairs import convert
from labels.reading import SUFFIX, BadPair, Pairs
from labels.table import CLASSES, IGNORE
from mistakes import command

CLASS_OF = (  # Cityscapes class by SYNTHIA's id; terrain, truck and train have ids, but no image shows them
    None,  # void
    'sky',
    'building',
    'road',
    'sidewalk',
    'fence',
    'vegetation',
    'pole',
    'car',
    'traffic sign',
    'person',
    'bicycle',
    'motorcycle',
    None,  # parking slot
    None,  # road work
    'traffic light',
    'terrain',
    'rider',
    'truck',
    'bus',
    'train',
    'wall',
    None,  # lane marking
)
TO_TRAIN_ID = np.array([IGNORE if name is None else CLASSES.index(name) for name in CLASS_OF], np.uint8)


def train_ids(path: Path) -> np.ndarray:
    """The train ids (H, W) uint8 of a 16-bit label; raises `BadPair` if it is something else, which it names."""
    try:
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)  # Pillow would keep the upper 8 bits only, which are 0
    except cv2.error as error:
        raise BadPair('unreadable', f'{path}: {error.err}') from error
    if label is None:
        raise BadPair('unreadable', f'{path}: not a whole PNG file')
    if label.dtype != np.uint16 or label.ndim != 3:
        channels = 1 if label.ndim == 2 else label.shape[2]
        found = f'{8 * label.itemsize} bits in {channels} channels'
        raise BadPair('wrong depth', f'{path}: expected 16 bits in several channels, as distributed, got {found}')
    ids = label[..., 2]  # OpenCV returns channels in the order BGR
    unknown = np.unique(ids[ids >= len(CLASS_OF)])
    if unknown.size:
        raise BadPair('unknown id', f'{path}: class ids {unknown.tolist()[:8]}, expected 0..{len(CLASS_OF) - 1}')
    return TO_TRAIN_ID[ids]


SYNTHIA = Pairs('SYNTHIA', 'RGB', 'GT/LABELS', 'GT/LABELS', ('.png', '.png', SUFFIX), train_ids)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 if every pair is good, or --skip-bad leaves the bad ones out."""
    args = converter_parser(__doc__).parse_args(argv)
    return convert(SYNTHIA, args.data_root, args.workers, args.overwrite, args.skip_bad, args.out)


if __name__ == '__main__':
    sys.exit(main())
