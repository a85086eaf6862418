"""Draw a small driving data set: a game domain in GTA5's layout and a real-ish one in Cityscapes' layout.

    python tools/prepare_toy_streets.py data/toy_streets [--train 200] [--val 50] [--size 512x256] [--gap 1] [--seed 0]

    OUT/gta5/images/00001.png  labels/00001.png  labels/00001_labelTrainIds.png  splits/train.txt  splits/val.txt
    OUT/cityscapes/leftImg8bit/{train,val}/toytown/*_leftImg8bit.png
    OUT/cityscapes/gtFine/{train,val}/toytown/*_gtFine_labelIds.png  *_gtFine_labelTrainIds.png

The streets of both domains come from one distribution, with all 19 classes; only the style differs, and --gap scales
that difference (0: none). An image depends on the seed, its domain, split and number, not on the workers. The data set
stands in for GTA5 and Cityscapes if those are not available; its results do not replace results on them.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bench.runs import read_json, write_json
from cli import COUNT, SEED, at_least
from disk import claimed, is_empty, write_text
from labels.pairs import convert_pair, cpu_count, run_parallel
from labels.reading import SUFFIX
from labels.table import TO_TRAIN_ID, gta5_palette, save_png
from mistakes import command
from prepare_gta5 import GTA5
from toy_streets.scene import paint_street
from toy_streets.style import photograph, style_at

MANIFEST = 'toy_streets.json'
VERSION = 2  # of the drawing code: increase it when the same parameters result in other pictures
DOMAINS, SPLITS = ('gta5', 'cityscapes'), ('train', 'val')


class Picture(NamedTuple):
    """One picture to draw: its domain, its split, its number within the split, and its number in GTA5's file names."""

    domain: str
    split: str
    index: int
    number: int

    def files(self, out: Path) -> tuple[Path, Path, Path]:
        """Paths of the image, the label ids and the train ids."""
        if self.domain == 'gta5':
            root, name = out / 'gta5', f'{self.number:05d}'
            return root / f'images/{name}.png', root / f'labels/{name}.png', root / f'labels/{name}{SUFFIX}'
        root, name = out / 'cityscapes', f'{self.split}/toytown/toytown_{self.index:06d}_000000'
        labels = root / f'gtFine/{name}_gtFine_labelIds.png'
        return root / f'leftImg8bit/{name}_leftImg8bit.png', labels, root / f'gtFine/{name}_gtFine{SUFFIX}'


def draw_picture(picture: Picture, seed: int, size: tuple[int, int], gap: float) -> tuple[np.ndarray, np.ndarray]:
    """RGB (H, W, 3) and label ids (H, W), uint8; the same arguments always give the same arrays."""
    key = (seed, DOMAINS.index(picture.domain), SPLITS.index(picture.split), picture.index)
    scene_rng, style_rng = map(np.random.default_rng, np.random.SeedSequence(key).spawn(2))
    style, palette = style_at(gap if picture.domain == 'cityscapes' else 0.0)
    return photograph(paint_street(size, palette, scene_rng), style, style_rng)


def _write(out: Path, seed: int, size: tuple[int, int], gap: float, picture: Picture) -> None:
    image, ids = draw_picture(picture, seed, size, gap)
    image_path, label_path, train_path = picture.files(out)
    save_png(image_path, image)
    if picture.domain == 'gta5':
        save_png(label_path, ids, gta5_palette())
        convert_pair(GTA5, GTA5.pair(out / 'gta5', label_path.stem), overwrite=True)
    else:
        save_png(label_path, ids)
        save_png(train_path, TO_TRAIN_ID[ids])


def plan(train: int, val: int) -> list[Picture]:
    """Every picture of the data set, in a fixed order."""
    counts = dict(zip(SPLITS, (train, val), strict=True))
    first = {'train': 1, 'val': train + 1}
    return [
        Picture(domain, split, i, first[split] + i)
        for domain in DOMAINS
        for split in SPLITS
        for i in range(counts[split])
    ]


def _claim(out: Path, params: dict) -> bool:
    """Claim the folder `out`, or raise; returns whether it was finished with the same parameters."""
    manifest = out / MANIFEST
    if manifest.is_file():
        written = read_json(manifest)
        complete = written.pop('complete', False)
        if written != params:
            differ = ', '.join(f'{k} {written.get(k)} -> {v}' for k, v in params.items() if written.get(k) != v)
            raise FileExistsError(f'{out} holds toy streets drawn otherwise ({differ}); choose a new folder')
        return complete
    if out.exists() and not (out.is_dir() and is_empty(out)):
        raise FileExistsError(f'{out} exists and was not written by this tool; choose a new or an empty folder')
    _sign(out, params, complete=False)
    return False


def _sign(out: Path, params: dict, complete: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, dict(params, complete=complete))


def _write_splits(out: Path, pictures: list[Picture]) -> None:
    folder = out / 'gta5' / 'splits'
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        names = [f'{p.number:05d}\n' for p in pictures if p.domain == 'gta5' and p.split == split]
        write_text(folder / f'{split}.txt', ''.join(names))


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected WIDTHxHEIGHT such as 512x256, got {text!r}') from None
    if min(width, height) < 32:
        raise argparse.ArgumentTypeError(f'expected at least 32x32, got {text}')
    return width, height


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='a new or empty folder, or one that this tool wrote before')
    parser.add_argument('--seed', type=SEED, default=0)
    parser.add_argument('--train', type=COUNT, default=200, help='training images of each domain')
    parser.add_argument('--val', type=COUNT, default=50, help='held-out images of each domain')
    parser.add_argument('--size', type=_size, default=(512, 256), help='WIDTHxHEIGHT')
    parser.add_argument('--gap', type=at_least(float, 0), default=1.0, help='style gap; 0: both domains look alike')
    parser.add_argument('--workers', type=COUNT, default=cpu_count(), help='processes (default: one per CPU)')
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 when the data set is complete."""
    args = _parser().parse_args(argv)
    params = {
        'tool': 'prepare_toy_streets',
        'version': VERSION,
        'seed': args.seed,
        'train': args.train,
        'val': args.val,
    }
    params |= {'size': list(args.size), 'gap': args.gap}
    complete = _claim(args.out, params)
    pictures = plan(args.train, args.val)
    missing = [p for p in pictures if not all(path.is_file() for path in p.files(args.out))]
    if complete and not missing:
        print(f'{args.out}: up to date')
        return 0
    work = partial(_write, args.out, args.seed, args.size, args.gap)
    with claimed(args.out, 'this tool', 'choose another folder'):
        for _ in run_parallel(work, missing, args.workers, 'toy streets'):
            pass
        _write_splits(args.out, pictures)
        _sign(args.out, params, complete=True)
    print(f'{args.out}: {len(pictures)} images, {len(missing)} drawn now')
    return 0


if __name__ == '__main__':
    sys.exit(main())
