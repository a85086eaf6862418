"""Make Cityscapes' train id labels from its polygons, and compare them with the images.

    python tools/prepare_cityscapes.py data/cityscapes [--out FOLDER] [--workers N] [--overwrite]

Writes `gtFine/SPLIT/CITY/*_gtFine_labelTrainIds.png` beside each `*_gtFine_polygons.json`, drawn by cityscapesscripts.
A stopped run continues where it stopped. Bad annotations are listed, with their reasons, in `prepare_report.json`; the
exit code is 1 if there is any. --out writes everything to another folder, in case the data are read-only.
"""

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
from cli import COUNT
from disk import claimed, standalone
from labels.pairs import DONE, KEPT, Result, cpu_count, report, run_parallel, tell_reader, writable
from labels.reading import SUFFIX, BadPair, is_current, same_size
from labels.table import save_png
from mistakes import command

datafiles = standalone('datafiles')
POLYGONS = '_gtFine_polygons.json'


def annotations(root: Path) -> list[str]:
    """Names of all fine annotations, `SPLIT/CITY/NAME`; `FileNotFoundError` if a folder or all files are missing."""
    labels = root / 'gtFine'
    for folder in (root, labels):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is not a folder; unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip '
                f'(cityscapes-dataset.com, after registering) into {root}'
            )
    files = [file.relative_to(labels).as_posix() for file in datafiles.visible_files(labels)]
    found = [file.removesuffix(POLYGONS) for file in files if file.endswith(POLYGONS)]
    if not found:
        raise FileNotFoundError(f'no SPLIT/CITY/*{POLYGONS} in {labels}; is gtFine_trainvaltest.zip unpacked?')
    return found


def convert(path: Path) -> np.ndarray:
    """The train ids (H, W) uint8 of one polygon file; `BadPair` if it is broken or names an unknown label."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.helpers.labels import name2label
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    try:
        annotation = Annotation()
        annotation.fromJsonText(datafiles.decode_text(path.read_bytes(), path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        detail = f'{path}: not a Cityscapes annotation ({type(error).__name__}: {error})'
        raise BadPair('unreadable', detail) from error
    names = {item.label for item in annotation.objects if not item.deleted}
    unknown = sorted(name for name in names if name not in name2label and name.removesuffix('group') not in name2label)
    if unknown:  # cityscapesscripts would end the process here
        raise BadPair('unknown label', f'{path}: unknown labels {unknown}')
    try:
        return np.asarray(createLabelImage(annotation, 'trainIds'), np.uint8)
    except (ValueError, TypeError, MemoryError, OverflowError) as error:
        raise BadPair('unreadable', f'{path}: cannot be drawn ({type(error).__name__}: {error})') from error


def _attempt(root: Path, out: Path, overwrite: bool, name: str) -> Result:
    """Convert one annotation unless its label is up to date."""
    source, target = root / 'gtFine' / f'{name}{POLYGONS}', out / 'gtFine' / f'{name}_gtFine{SUFFIX}'
    image: Path | None = root / 'leftImg8bit' / f'{name}_leftImg8bit.png'
    image = image if image.is_file() else None
    try:
        if not overwrite and is_current(target, source, image):
            return Result(name, KEPT)
        ids = convert(source)
        if image is not None:
            same_size(image, source, ids)
        save_png(target, ids)
    except BadPair as bad:
        return Result(name, bad.kind, bad.detail)
    return Result(name, DONE)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 if every annotation is converted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data_root', type=Path, help='folder that holds leftImg8bit/ and gtFine/')
    parser.add_argument('--out', type=Path, help='folder for labels and report (default: data_root)')
    parser.add_argument('--workers', type=COUNT, default=cpu_count(), help='processes (default: one per CPU)')
    parser.add_argument('--overwrite', action='store_true', help='convert again what is converted already')
    args = parser.parse_args(argv)
    if importlib.util.find_spec('cityscapesscripts') is None:
        raise ModuleNotFoundError(name='cityscapesscripts')
    names, out = annotations(args.data_root), args.out or args.data_root
    writable(out)
    writable(out / 'gtFine')
    work = partial(_attempt, args.data_root, out, args.overwrite)
    with claimed(out, 'a converter'):
        _, bad = report(out, list(run_parallel(work, names, args.workers, 'Cityscapes labels')))
    if out != args.data_root:
        tell_reader('leftImg8bit/SPLIT', out / 'gtFine' / 'SPLIT')
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())
