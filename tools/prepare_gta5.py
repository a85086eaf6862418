"""Convert GTA5's labels to train ids and check every image/label pair.

    python tools/prepare_gta5.py data/gta5 [--out FOLDER] [--workers N] [--skip-bad] [--overwrite]

Reads `images/NAME.png` and `labels/NAME.png` (palette PNGs as distributed, grey label ids, or RGB label colours) and
writes `labels/NAME_labelTrainIds.png`. A stopped run continues where it stopped. Every bad pair is listed, with its
reason, in `prepare_report.json`; the exit code is 1 if there is any. With --skip-bad it is 0, and `splits/good.txt`
lists the good pairs, for `GTA5Dataset(ann_file="splits/good.txt")`. --out writes everything to another folder, in case
the data are read-only.
"""

import sys
from pathlib import Path

import numpy as np
from cli import converter_parser
from labels.pairs import convert
from labels.reading import SUFFIX, BadPair, Pairs, read_image
from labels.table import COLOUR_TO_ID, LABELS, TO_TRAIN_ID
from mistakes import command
from PIL import Image


def label_ids(path: Path) -> np.ndarray:
    """The label ids (H, W) uint8 of a palette, grey or RGB label image; `BadPair` names the first unknown one.

    The indices of a palette image are ids only if its palette is GTA5's or a ramp of greys, which carries no
    information; otherwise its colours are decoded.
    """
    image = read_image(path)
    if image.mode in ('RGB', 'RGBA') or (image.mode == 'P' and not _has_label_colours(image)):
        return _ids_of_colours(np.asarray(image.convert('RGB')), path)
    if image.mode not in ('P', 'L', '1') and not image.mode.startswith('I'):
        raise BadPair('unknown mode', f'{path}: expected palette, grey or RGB, got {image.mode}')
    ids = np.asarray(image)
    unknown = np.unique(ids[(ids < 0) | (ids >= len(LABELS))])
    if unknown.size:
        raise BadPair('unknown id', f'{path}: label ids {unknown.tolist()[:8]}, expected 0..{len(LABELS) - 1}')
    return ids.astype(np.uint8)


def _has_label_colours(image: Image.Image) -> bool:
    """Whether all indices of a palette image that are ids have the ids' colours, or all have their own grey."""
    palette = image.getpalette('RGB') or []
    used = [index for _, index in image.getcolors(256) or () if index < len(LABELS)]
    colours = [tuple(palette[3 * index : 3 * index + 3]) for index in used]
    return colours in ([LABELS[index][3] for index in used], [(index,) * 3 for index in used])


def _ids_of_colours(rgb: np.ndarray, path: Path) -> np.ndarray:
    codes = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    present, where = np.unique(codes, return_inverse=True)
    colours = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in present]
    unknown = [colour for colour in colours if colour not in COLOUR_TO_ID]
    if unknown:
        pixels = int(np.isin(where, [colours.index(colour) for colour in unknown]).sum())
        raise BadPair('unknown colour', f'{path}: RGB {unknown[:8]} ({pixels} pixels) is not a label colour')
    return np.array([COLOUR_TO_ID[colour] for colour in colours], np.uint8)[where].reshape(codes.shape)


def train_ids(path: Path) -> np.ndarray:
    """The train ids (H, W) uint8 of a label image."""
    return TO_TRAIN_ID[label_ids(path)]


GTA5 = Pairs('GTA5', 'images', 'labels', 'labels', ('.png', '.png', SUFFIX), train_ids)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 if every pair is good, or --skip-bad leaves the bad ones out."""
    args = converter_parser(__doc__).parse_args(argv)
    return convert(GTA5, args.data_root, args.workers, args.overwrite, args.skip_bad, args.out)


if __name__ == '__main__':
    sys.exit(main())
