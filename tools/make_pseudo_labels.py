"""Writes a network's predictions for target images as labels: make_pseudo_labels.py CONFIG CHECKPOINT OUT [--soft].

The images are those of the config's `UDADataset(target=...)`, in the config's test pipeline without labels. OUT gets a
file for each, in the same subfolders: NAME_pseudo.png, a palette PNG of the most probable class (train ids, at the size
of the image's file), or with --soft NAME_soft.npz with probabilities. With --threshold P, hard labels are 255 where no
class has the probability P. After an interruption, the same command continues; damaged files are written again. Images
that cannot be read are named at the end, with exit status 2; all others have their labels by then.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench.runs import fingerprint, read_json, write_json
from cli import COUNT, kind_of, load_config, parser
from disk import claimed
from mistakes import command

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import Tensor

MANIFEST = 'pseudo_labels.json'
SUFFIXES = {'soft': '_soft.npz', 'hard': '_pseudo.png'}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = parser(__doc__)
    own.add_argument('checkpoint', help='.pth file')
    own.add_argument('out', help='folder for the labels')
    own.add_argument('--soft', action='store_true', help='probabilities of all classes')
    own.add_argument('--threshold', type=float, default=0.0, help='hard labels: 255 where no class is as probable')
    own.add_argument('--stride', type=COUNT, default=4, help='soft labels: one for so many pixels in each direction')
    own.add_argument('--force', action='store_true', help='delete labels of other settings in OUT')
    args = own.parse_args(argv)
    if args.launcher != 'none':
        own.error('runs as one process')
    if not 0 <= args.threshold <= 1:
        own.error(f'--threshold is a probability, got {args.threshold}')
    return args


def target_dataset(cfg: Config, config: str) -> Any:
    """The data set of the target's images, with the test pipeline.

    Raises:
        ValueError: the config does not train on a UDADataset.
    """
    from mmseg.registry import DATASETS

    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    if kind_of(dataset) != 'UDADataset':
        raise ValueError(f"{config} names no target images: its training data are no dict(type='UDADataset', target=)")
    labelled = ('LoadAnnotations', 'LoadTrainIds', 'ScoreAsShown')
    steps = [step for step in cfg.test_pipeline if step['type'] not in labelled]
    return DATASETS.build({**copy.deepcopy(dataset.target), 'pipeline': steps, 'test_mode': True})


def image_folder(dataset: Any) -> str:
    """The folder of a data set's images.

    Raises:
        ValueError: the data set does not define one.
    """
    folder = (getattr(dataset, 'data_prefix', None) or {}).get('img_path')
    if not folder or not hasattr(dataset, 'get_data_info'):
        raise ValueError(
            f'the target is a {type(dataset).__name__}, and labels are written for the images of one folder: make a '
            'config for each of its parts'
        )
    return str(folder)


def label_files(dataset: Any, out: Path, suffix: str) -> list[Path]:
    """Path of the label file of each image.

    Raises:
        ValueError: two images would share one label file.
    """
    from timm_stylenorm.datafiles import without_suffix

    folder = image_folder(dataset)
    files: list[Path] = []
    places: dict[Path, Path] = {}
    for k in range(len(dataset)):
        image = Path(dataset.get_data_info(k)['img_path'])
        inner = image.relative_to(folder)
        name = without_suffix(inner.name, dataset.img_suffix)
        file = out / inner.parent / f'{inner.name if name is None else name}{suffix}'
        if places.setdefault(file, image) != image:
            raise ValueError(f'{places[file]} and {image} would have one label, {file}')
        files.append(file)
    return files


def before(out: Path) -> dict[str, Any]:
    """The settings with which a folder's labels were made; {} if it holds no record of them."""
    manifest = out / MANIFEST
    return read_json(manifest) if manifest.exists() else {}


def refuse_others(out: Path, files: list[Path], settings: dict[str, Any], force: bool) -> None:
    """Checks that the folder holds no labels of other settings; changes nothing.

    Raises:
        FileExistsError: the folder holds labels of other settings, and --force, which deletes them, was not given.
    """
    old = before(out)
    if old != settings and not force and (old or any(file.exists() for file in files)):
        differ = ', '.join(f'{k} {old.get(k)} and not {v}' for k, v in settings.items() if old.get(k) != v)
        raise FileExistsError(f'{out} holds labels of other settings ({differ}); choose another folder, or --force')


def claim(out: Path, files: list[Path], settings: dict[str, Any]) -> None:
    """Marks the folder as holding labels of these settings: keeps their labels, deletes those of others."""
    if before(out) == settings:
        return
    for file in files:
        file.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, settings)


def is_whole(file: Path, train_ids: np.ndarray) -> bool:
    """Whether a label exists and is valid."""
    if not file.exists():
        return False
    from mmseg_stylenorm.datasets.label_statistics import read_ids
    from mmseg_stylenorm.uda.pseudo_labels import read_soft

    try:
        if file.suffix == '.png':
            return bool(np.isin(read_ids(str(file)), [*train_ids, 255]).all())
        read_soft(file, len(train_ids))
    except ValueError:
        return False
    return True


def write(logits: Tensor, file: Path, dataset: Any, args: argparse.Namespace) -> bool:
    """Writes the label of an image from its logits (K, H, W); returns whether any pixel has a class."""
    import torch

    from mmseg_stylenorm.uda.pseudo_labels import train_ids_of, write_hard, write_soft
    from timm_stylenorm.files import atomic_write

    probabilities = logits.float().softmax(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        if args.soft:
            write_soft(part, torch.nn.functional.avg_pool2d(probabilities, args.stride, ceil_mode=True))
            return True
        sure, best = (x.cpu().numpy() for x in probabilities.max(0))
        label = np.where(sure < args.threshold, 255, train_ids_of(dataset)[best]).astype(np.uint8)
        write_hard(part, label, type(dataset).METAINFO['palette'])
    return bool((label != 255).any())


class Attempts:
    """A data set's images as batches of one; for an image that cannot be read, the reason as a string."""

    def __init__(self, dataset: Any, numbers: list[int]) -> None:
        self.dataset, self.numbers = dataset, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, k: int) -> Any:
        from mmengine.dataset import pseudo_collate

        from mmseg_stylenorm.datasets.stand_ins import FAULTS

        try:
            return pseudo_collate([self.dataset[self.numbers[k]]])
        except FAULTS as error:
            image = self.dataset.get_data_info(self.numbers[k])['img_path']
            return str(error) if image in str(error) else f'image {image}: {error}'


def label_all(model: Any, batches: Any, files: list[Path], dataset: Any, args: argparse.Namespace) -> list[str]:
    """Writes the labels of all images that can be read; returns why the others cannot be."""
    import torch
    from mmengine.utils import ProgressBar

    faults, blank, bar = [], 0, ProgressBar(len(files))
    with torch.no_grad():
        for file, batch in zip(files, batches, strict=True):
            if isinstance(batch, str):
                faults.append(batch)
            else:
                (sample,) = model.test_step(batch)
                blank += not write(sample.seg_logits.data, file, dataset, args)
            bar.update()
    print()
    if blank:
        print(
            f'warning: {blank} labels hold no class, since the network is nowhere as sure as --threshold '
            f'{args.threshold}; they teach nothing',
            file=sys.stderr,
        )
    return faults


@command
def main(argv: list[str] | None = None) -> list[Path]:
    """Entry point; returns the paths of the labels that it wrote."""
    args = parse_args(argv)
    from mmengine.registry import init_default_scope

    from timm_stylenorm.checkpoints import existing

    cfg = load_config(args)
    init_default_scope('mmseg')
    cfg.load_from, cfg.resume = args.checkpoint, False
    dataset, out = target_dataset(cfg, args.config), Path(args.out)
    num_classes = len(dataset.metainfo['classes'])
    kind = 'soft' if args.soft else 'hard'
    settings = {'kind': kind, 'num_classes': num_classes, 'config': Path(args.config).stem}
    settings |= {'stride': args.stride} if args.soft else {'threshold': args.threshold}
    settings['network'] = fingerprint({key: cfg.to_dict()[key] for key in ('model', 'test_pipeline')})
    settings['images'] = str(Path(image_folder(dataset)).resolve())
    settings['checkpoint'] = hashlib.sha256(existing(args.checkpoint).read_bytes()).hexdigest()
    with claimed(out, 'this tool', 'choose another folder'):
        return fill(cfg, args, dataset, settings)


def fill(cfg: Config, args: argparse.Namespace, dataset: Any, settings: dict[str, Any]) -> list[Path]:
    """Writes the labels that are missing or damaged; returns their paths."""
    from torch.utils.data import DataLoader

    from mmseg_stylenorm.uda.pseudo_labels import train_ids_of
    from timm_stylenorm.runner.terminal import QuietRunner
    from timm_stylenorm.workers import end_with_parent

    out, train_ids = Path(args.out), train_ids_of(dataset)
    both = {name: label_files(dataset, out, suffix) for name, suffix in SUFFIXES.items()}
    every = [*both['soft'], *both['hard']]
    refuse_others(out, every, settings, args.force)
    files = both[settings['kind']]
    if before(out) != settings or not all(is_whole(file, train_ids) for file in files):
        runner = QuietRunner.from_cfg(cfg)
        runner.load_or_resume()  # rejects a checkpoint that does not fit before the old labels are deleted
        runner.model.eval()
        claim(out, every, settings)
    todo = [k for k, file in enumerate(files) if not is_whole(file, train_ids)]
    if todo:
        workers = cfg.test_dataloader.get('num_workers', 0)
        loader = DataLoader(
            Attempts(dataset, todo), batch_size=None, num_workers=workers, worker_init_fn=end_with_parent
        )
        faults = label_all(runner.model, loader, [files[k] for k in todo], dataset, args)
        if faults:
            raise ValueError(f'{len(faults)} images have no label, all others have theirs: {"; ".join(faults)}')
    print(f'{len(todo)} labels written to {out}, {len(files) - len(todo)} were there')
    return [files[k] for k in todo]


if __name__ == '__main__':
    main()
