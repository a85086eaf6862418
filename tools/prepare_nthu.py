"""Convert the test labels of a city of NTHU's cross-city data to train ids and check every image/label pair.

    python tools/prepare_nthu.py data/nthu/Rome [--workers N] [--skip-bad] [--overwrite]

Reads `Images/Test/NAME.png` (or .jpg) and `Labels/Test/NAME_eval.png` (grey, the label ids of Cityscapes) and writes
`Labels/Test/NAME_labelTrainIds.png`. A stopped run continues where it stopped. Every bad pair is listed, with its
reason, in `prepare_report.json`; the exit code is 1 if there is any. With --skip-bad it is 0, and `splits/good.txt`
lists the good pairs, for `StreetsDataset(layout="nthu", ann_file=...)`.
"""

import sys
from pathlib import Path

import numpy as np
from cli import converter_parser
from labels.pairs import convert
from labels.reading import SUFFIX, BadPair, Pairs, read_image
from labels.table import IGNORE, LABELS, TO_TRAIN_ID
from mistakes import command


def train_ids(path: Path) -> np.ndarray:
    """The train ids (H, W) uint8 of a label; raises `BadPair` if it is something else, which it names."""
    image = read_image(path)
    if image.mode not in ('L', 'P'):
        raise BadPair('unknown mode', f'{path}: expected grey or palette, got {image.mode}')
    ids = np.asarray(image)
    unknown = np.unique(ids[(ids >= len(LABELS)) & (ids != IGNORE)])
    if unknown.size:
        raise BadPair('unknown id', f'{path}: label ids {unknown.tolist()[:8]}, expected 0..{len(LABELS) - 1}')
    return TO_TRAIN_ID[ids]


def pairs_of(root: Path) -> Pairs:
    """The test pairs of a city, whose images are JPEG or PNG files."""
    suffix = '.jpg' if any((root / 'Images/Test').glob('*.jpg')) else '.png'
    return Pairs('NTHU', 'Images/Test', 'Labels/Test', 'Labels/Test', (suffix, '_eval.png', SUFFIX), train_ids)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 if every pair is good, or --skip-bad leaves the bad ones out."""
    args = converter_parser(__doc__).parse_args(argv)
    return convert(pairs_of(args.data_root), args.data_root, args.workers, args.overwrite, args.skip_bad)


if __name__ == '__main__':
    sys.exit(main())
