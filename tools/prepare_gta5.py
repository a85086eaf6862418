"""Convert GTA5's labels to train ids and check every image/label pair.

    python tools/prepare_gta5.py data/gta5 [--workers N] [--skip-bad] [--overwrite]

Reads `images/NAME.png` and `labels/NAME.png` (palette PNGs as distributed, grey label ids, or RGB label colours) and
writes `labels/NAME_labelTrainIds.png`. A run that was stopped goes on where it stopped. Every bad pair is listed, with
its reason, in `prepare_report.json`; the exit code is 1 if there is any. With --skip-bad it is 0, and `splits/good.txt`
lists the good pairs: give that file to `GTA5Dataset(ann_file="splits/good.txt")`.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from _labels import COLOUR_TO_ID, IGNORE, LABELS, TO_TRAIN_ID, save_png
from PIL import Image
from tqdm import tqdm

SUFFIX = '_labelTrainIds.png'
DONE, KEPT = 'converted', 'already there'
_TRAIN_IDS = np.isin(np.arange(256), [*TO_TRAIN_ID, IGNORE])


class BadPair(Exception):
    """What is wrong with one image/label pair: a kind from the report's vocabulary, and the details."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f'{kind}: {detail}')
        self.kind, self.detail = kind, detail


def read_image(path: Path) -> Image.Image:
    """Open and decode a PNG completely; a missing or broken file becomes a `BadPair`."""
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # PIL reports broken PNGs as any of these
        raise BadPair('unreadable', f'{path}: {error}') from error
    return image


def label_ids(path: Path) -> np.ndarray:
    """The label ids (H, W) uint8 of a palette, grey or RGB label image; `BadPair` names the first unknown one.

    The indices of a palette image are ids only as long as its palette is GTA5's; otherwise its colours count.
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
    """Whether each index that a palette image uses, and that is an id, has that id's colour."""
    palette = image.getpalette('RGB') or []
    used = [index for _, index in image.getcolors(256) or () if index < len(LABELS)]
    return all(tuple(palette[3 * index : 3 * index + 3]) == LABELS[index][3] for index in used)


def _ids_of_colours(rgb: np.ndarray, path: Path) -> np.ndarray:
    codes = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    present, where = np.unique(codes, return_inverse=True)
    colours = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in present]
    unknown = [colour for colour in colours if colour not in COLOUR_TO_ID]
    if unknown:
        pixels = int(np.isin(where, [colours.index(colour) for colour in unknown]).sum())
        raise BadPair('unknown colour', f'{path}: RGB {unknown[:8]} ({pixels} pixels) is not a label colour')
    return np.array([COLOUR_TO_ID[colour] for colour in colours], np.uint8)[where].reshape(codes.shape)


def convert_pair(root: Path, name: str, overwrite: bool = False) -> str:
    """Check one pair and write its train ids; returns DONE or KEPT, raises `BadPair`."""
    image_path, label_path, target = (
        root / f'images/{name}.png',
        root / f'labels/{name}.png',
        root / f'labels/{name}{SUFFIX}',
    )
    for path, half in ((image_path, 'image'), (label_path, 'label')):
        if not path.is_file():
            raise BadPair(f'missing {half}', f'{path} does not exist')
    if not overwrite and _is_current(target, image_path, label_path):
        return KEPT
    size = read_image(image_path).size
    ids = label_ids(label_path)
    if size != ids.shape[::-1]:
        raise BadPair('size mismatch', f'{image_path} is {_by(size)}, {label_path} is {_by(ids.shape[::-1])}')
    save_png(target, TO_TRAIN_ID[ids])
    return DONE


def _by(size: tuple[int, ...]) -> str:
    return 'x'.join(map(str, size))


def _is_current(target: Path, *sources: Path) -> bool:
    """Whether the target is newer than its sources, whole, of the image's size and made of train ids."""
    if not target.is_file() or target.stat().st_mtime_ns < max(path.stat().st_mtime_ns for path in sources):
        return False
    ids = read_train_ids(target)
    try:
        with Image.open(sources[0]) as picture:  # reads the header only
            return ids is not None and picture.size == ids.shape[::-1]
    except OSError:
        return False


def read_train_ids(path: Path) -> np.ndarray | None:
    """The train ids (H, W) in a file that a tool wrote before, or None where that file is of no use."""
    try:
        image = read_image(path)
    except BadPair:
        return None
    ids = np.asarray(image)
    return ids if image.mode == 'L' and _TRAIN_IDS[ids].all() else None


def _attempt(root: Path, overwrite: bool, name: str) -> tuple[str, str, str]:
    """`convert_pair` for a worker process: (name, outcome, detail)."""
    try:
        return name, convert_pair(root, name, overwrite), ''
    except BadPair as bad:
        return name, bad.kind, bad.detail


def run_parallel(work: Callable, items: Iterable, workers: int, title: str) -> Iterator:
    """Map over items in order with a progress bar, in this process when one worker is asked for."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        yield from tqdm(map(work, items), total=len(items), desc=title)
        return
    with ProcessPoolExecutor(min(workers, len(items))) as pool:
        chunk = max(1, min(16, len(items) // (4 * workers)))
        yield from tqdm(pool.map(work, items, chunksize=chunk), total=len(items), desc=title)


def cpu_count() -> int:
    """The CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def pair_names(root: Path) -> list[str]:
    """The sorted names of all images and labels under a GTA5 root; `FileNotFoundError` when a folder is missing."""
    for folder in (root, root / 'images', root / 'labels'):
        if not folder.is_dir():
            raise FileNotFoundError(f'{folder} is not a folder; expected {root}/images/*.png and {root}/labels/*.png')
    images = {path.stem for path in (root / 'images').glob('*.png')}
    labels = {path.stem for path in (root / 'labels').glob('*.png') if not path.name.endswith(SUFFIX)}
    return sorted(images | labels)


def _report(root: Path, results: list[tuple[str, str, str]]) -> tuple[list[str], list[dict[str, str]]]:
    """Write prepare_report.json and print the summary; returns the good names and the bad pairs."""
    good = [name for name, outcome, _ in results if outcome in (DONE, KEPT)]
    bad = [{'name': name, 'kind': kind, 'detail': detail} for name, kind, detail in results if kind not in (DONE, KEPT)]
    counts = Counter(outcome for _, outcome, _ in results)
    report = root / 'prepare_report.json'
    report.write_text(json.dumps({'pairs': len(results), 'counts': counts, 'bad': bad}, indent=2) + '\n')
    print(f'{len(results)} pairs: ' + ', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items())))
    for entry in bad[:20]:
        print(f'  {entry["kind"]}: {entry["detail"]}')
    if len(bad) > 20:
        print(f'  ... and {len(bad) - 20} more in {report}')
    return good, bad


def main(argv: list[str] | None = None) -> int:
    """Run the tool; 0 when every pair is good, or the bad ones are left out on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data_root', type=Path, help='folder that holds images/ and labels/')
    parser.add_argument('--workers', type=int, default=cpu_count(), help='processes (default: one per CPU)')
    parser.add_argument('--skip-bad', action='store_true', help='write splits/good.txt without them, exit with 0')
    parser.add_argument('--overwrite', action='store_true', help='convert again what is converted already')
    args = parser.parse_args(argv)
    try:
        names = pair_names(args.data_root)
    except FileNotFoundError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    work = partial(_attempt, args.data_root, args.overwrite)
    good, bad = _report(args.data_root, list(run_parallel(work, names, args.workers, 'GTA5 labels')))
    if not good:
        print(f'error: no usable image/label pair under {args.data_root}', file=sys.stderr)
        return 1
    if bad and not args.skip_bad:
        print(f'{len(bad)} bad pairs, listed in the report; --skip-bad writes a split without them')
        return 1
    if args.skip_bad:
        split = args.data_root / 'splits' / 'good.txt'
        split.parent.mkdir(exist_ok=True)
        split.write_text('\n'.join(good) + '\n')
        print(f'{len(good)} good pairs listed in {split}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
