"""Check every image/label pair of a data set that is ready to be read: check_data.py LAYOUT DATA_ROOT [--split SPLIT].

    python tools/check_data.py bdd100k data/bdd100k [--out FOLDER] [--workers N] [--skip-bad]

Works for all layouts of docs/datasets.md, also those that no tool prepares. Decodes both files of each pair, compares
their sizes as loaded (images are rotated according to their EXIF data), and looks for ids that are not train ids.
Writes `prepare_report.json` with every bad pair and its reason, and with the pairs that are known to be defective in
the release, which data sets leave out; the exit code is 1 if there is a bad pair. With --skip-bad it is 0, and
`splits/good.txt` lists the good pairs, for `ann_file`. Both files go to DATA_ROOT/checks/LAYOUT/SPLIT, or below --out.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cli import COUNT
from labels.pairs import GOOD, LEFT_OUT, Result, cpu_count, finish, run_parallel, writable
from labels.reading import BadPair, Pair, Pairs, read_image, read_pair, sole
from labels.table import IGNORE
from mistakes import command

if TYPE_CHECKING:
    from mmseg_stylenorm.datasets.layouts import Layout

CLASSES = 19


def train_ids(path: Path) -> np.ndarray:
    """The train ids (H, W) of a label as loaded; raises `BadPair`."""
    ids = np.asarray(read_image(path))
    if ids.ndim != 2:
        raise BadPair('wrong shape', f'{path}: expected (H, W) train ids, got {ids.shape}')
    wrong = np.unique(ids[(ids != IGNORE) & ~((ids >= 0) & (ids < CLASSES))])
    if wrong.size:
        raise BadPair('unknown id', f'{path}: ids {wrong.tolist()[:8]}, expected 0..{CLASSES - 1} or {IGNORE}')
    return ids.astype(np.uint8)


def check(layout: Layout, split: str, pair: Pair) -> Result:
    """The result for a pair."""
    defective = pair.name in layout.defects.get(split, ())
    lone = pair.name in layout.lone_labels.get(split, ()) and not pair.images[0].is_file()
    if defective or lone:
        return Result(pair.name, LEFT_OUT)
    try:
        read_pair(sole(pair.images, 'image'), sole(pair.labels, 'label'), train_ids)
    except BadPair as bad:
        return Result(pair.name, bad.kind, bad.detail)
    return Result(pair.name, GOOD)


def check_split(args: argparse.Namespace, layout: Layout, split: str) -> int:
    """Checks a split; returns the exit code."""
    images, labels = (folder.format(split=split) for folder in (layout.images, layout.labels))
    image, label = layout.suffixes
    pairs = Pairs(f'{args.layout} {split}', images, labels, '', (image, label, label), train_ids)
    found = pairs.scan(args.data_root)
    out = (args.out or args.data_root / 'checks') / args.layout / split
    writable(out)
    results = list(run_parallel(partial(check, layout, split), found, args.workers, f'{args.layout} {split}'))
    expected = layout.pairs[split] - len(layout.defects.get(split, ()))
    print(f'{args.layout} {split}: {expected} pairs were released and are not known to be defective')
    return finish(out, results, args.skip_bad)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('layout', help='a name in the table of docs/datasets.md')
    own.add_argument('data_root', type=Path)
    own.add_argument('--split', help='default: every split of the layout whose folder of images is there')
    own.add_argument('--out', type=Path, help='folder for reports and lists (default: DATA_ROOT/checks)')
    own.add_argument('--workers', type=COUNT, default=cpu_count(), help='processes (default: one per CPU)')
    own.add_argument('--skip-bad', action='store_true', help='write splits/good.txt without them, exit with 0')
    return own.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 if every pair is good, or --skip-bad leaves the bad ones out."""
    args = parse_args(argv)
    from timm_stylenorm.errors import unknown
    from timm_stylenorm.runner.terminal import each_line_once

    with each_line_once():
        from mmseg_stylenorm.datasets.layouts import LAYOUTS

    if args.layout not in LAYOUTS:
        raise ValueError(unknown('layout', args.layout, LAYOUTS))
    layout = LAYOUTS[args.layout]
    if args.split is not None and args.split not in layout.pairs:
        raise ValueError(f'{args.layout}: {unknown("split", args.split, layout.pairs)}')
    there = [split for split in layout.pairs if (args.data_root / layout.images.format(split=split)).is_dir()]
    splits = [args.split] if args.split else there or [next(iter(layout.pairs))]
    return max([check_split(args, layout, split) for split in splits])


if __name__ == '__main__':
    sys.exit(main())
