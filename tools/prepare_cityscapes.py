"""Make Cityscapes' train id labels from its polygons.

    python tools/prepare_cityscapes.py data/cityscapes [--workers N] [--overwrite]

Writes `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png` beside each `*_gtFine_polygons.json`, drawn by cityscapesscripts.
A run that was stopped goes on where it stopped. Annotations that cannot be read are listed and make the exit code 1.
"""

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
from cli import COUNT
from disk import claimed
from labels.pairs import SUFFIX, cpu_count, read_train_ids, run_parallel
from labels.table import save_png
from mistakes import command

POLYGONS = '_polygons.json'


def annotations(root: Path) -> list[Path]:
    """All polygon files of the fine annotations, sorted; `FileNotFoundError` when a folder or all files are missing."""
    for folder in (root, root / 'gtFine'):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is not a folder; unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip '
                f'(cityscapes-dataset.com, after registering) into {root}'
            )
    found = sorted((root / 'gtFine').glob(f'*/*/*_gtFine{POLYGONS}'))
    if not found:
        raise FileNotFoundError(
            f'no SPLIT/CITY/*_gtFine{POLYGONS} in {root / "gtFine"}; is gtFine_trainvaltest.zip unpacked?'
        )
    return found


def convert(path: Path) -> np.ndarray:
    """The train ids (H, W) uint8 of one polygon file; `ValueError` when it is broken or names an unknown label."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.helpers.labels import name2label
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    try:
        annotation = Annotation()
        annotation.fromJsonText(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: not a Cityscapes annotation ({type(error).__name__}: {error})') from error
    names = {item.label for item in annotation.objects if not item.deleted}
    unknown = sorted(name for name in names if name not in name2label and name.removesuffix('group') not in name2label)
    if unknown:  # cityscapesscripts would end the process here
        raise ValueError(f'{path}: unknown labels {unknown}')
    return np.asarray(createLabelImage(annotation, 'trainIds'), np.uint8)


def _attempt(overwrite: bool, path: Path) -> str | None:
    """Convert one file unless that is done; returns what is wrong with it, if anything."""
    target = path.with_name(path.name.removesuffix(POLYGONS) + SUFFIX)
    if not overwrite and _is_current(target, path):
        return None
    try:
        save_png(target, convert(path))
    except ValueError as error:
        return str(error)
    return None


def _is_current(target: Path, source: Path) -> bool:
    if not target.is_file() or target.stat().st_mtime_ns < source.stat().st_mtime_ns:
        return False
    return read_train_ids(target) is not None


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; 0 when every annotation is converted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data_root', type=Path, help='folder that holds leftImg8bit/ and gtFine/')
    parser.add_argument('--workers', type=COUNT, default=cpu_count(), help='processes (default: one per CPU)')
    parser.add_argument('--overwrite', action='store_true', help='convert again what is converted already')
    args = parser.parse_args(argv)
    if importlib.util.find_spec('cityscapesscripts') is None:
        raise ModuleNotFoundError(name='cityscapesscripts')
    paths = annotations(args.data_root)
    with claimed(args.data_root, 'a converter'):
        results = run_parallel(partial(_attempt, args.overwrite), paths, args.workers, 'Cityscapes labels')
        errors = [error for error in results if error is not None]
    print(f'{len(paths)} annotations: {len(paths) - len(errors)} have train ids, {len(errors)} are bad')
    for error in errors:
        print(f'  {error}')
    return 1 if errors else 0


if __name__ == '__main__':
    sys.exit(main())
