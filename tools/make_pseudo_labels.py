"""Writes a network's predictions for target images as labels: make_pseudo_labels.py CONFIG CHECKPOINT OUT [--soft].

The images are those of the config's `UDADataset(target=...)`, in the config's test pipeline without labels. OUT gets a
file for each, in the same subfolders: NAME_pseudo.png with train ids, 255 where the network is not sure, or with --soft
NAME_soft.npz with probabilities. Interrupted, the same command goes on; files that are damaged are written again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
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
    """The target's images, to be tested on.

    Raises:
        ValueError: the config does not train on a UDADataset.
    """
    from mmseg.registry import DATASETS

    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    if kind_of(dataset) != 'UDADataset':
        raise ValueError(f"{config} names no target images: its training data are no dict(type='UDADataset', target=)")
    steps = [step for step in cfg.test_pipeline if step['type'] not in ('LoadAnnotations', 'LoadTrainIds')]
    return DATASETS.build({**copy.deepcopy(dataset.target), 'pipeline': steps, 'test_mode': True})


def label_files(dataset: Any, out: Path, suffix: str) -> list[Path]:
    """Where the label of each image goes."""
    root = Path(dataset.data_prefix['img_path'])
    images = [Path(dataset.get_data_info(k)['img_path']).relative_to(root) for k in range(len(dataset))]
    return [out / image.parent / f'{image.name.removesuffix(dataset.img_suffix)}{suffix}' for image in images]


def before(out: Path) -> dict[str, Any]:
    """The settings of the labels that a folder holds; {} where it does not tell."""
    manifest = out / MANIFEST
    return read_json(manifest) if manifest.exists() else {}


def refuse_others(out: Path, files: list[Path], settings: dict[str, Any], force: bool) -> None:
    """Changes nothing.

    Raises:
        FileExistsError: the folder holds labels of other settings, and --force, which deletes them, was not given.
    """
    old = before(out)
    if old != settings and not force and (old or any(file.exists() for file in files)):
        differ = ', '.join(f'{k} {old.get(k)} and not {v}' for k, v in settings.items() if old.get(k) != v)
        raise FileExistsError(f'{out} holds labels of other settings ({differ}); choose another folder, or --force')


def claim(out: Path, files: list[Path], settings: dict[str, Any]) -> None:
    """Makes the folder one of labels of these settings; what is left of them is kept, labels of others are deleted."""
    if before(out) == settings:
        return
    for file in files:
        file.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, settings)


def is_whole(file: Path, num_classes: int) -> bool:
    """Whether a label is there and can be read."""
    if not file.exists():
        return False
    if file.suffix == '.png':
        label = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        return label is not None and label.ndim == 2 and bool(np.all((label < num_classes) | (label == 255)))
    from mmseg_stylenorm.uda.pseudo_labels import read_soft

    try:
        read_soft(file, num_classes)
    except ValueError:
        return False
    return True


def write(logits: Tensor, file: Path, args: argparse.Namespace) -> None:
    """The label of one image from its logits (K, H, W)."""
    import torch

    from mmseg_stylenorm.uda.pseudo_labels import write_soft
    from timm_stylenorm.files import atomic_write

    probabilities = logits.float().softmax(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        if args.soft:
            write_soft(part, torch.nn.functional.avg_pool2d(probabilities, args.stride, ceil_mode=True))
            return
        sure, label = probabilities.max(0)
        png = cv2.imencode('.png', torch.where(sure < args.threshold, 255, label).byte().cpu().numpy())[1]
        part.write_bytes(png.tobytes())


@command
def main(argv: list[str] | None = None) -> list[Path]:
    """Entry point; returns the labels that it wrote."""
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
    settings['checkpoint'] = hashlib.sha256(existing(args.checkpoint).read_bytes()).hexdigest()
    with claimed(out, 'this tool', 'choose another folder'):
        return fill(cfg, args, dataset, settings)


def fill(cfg: Config, args: argparse.Namespace, dataset: Any, settings: dict[str, Any]) -> list[Path]:
    """Writes the labels that are not there yet, or not whole; returns them."""
    import torch
    from mmengine.dataset import pseudo_collate
    from mmengine.utils import ProgressBar
    from torch.utils.data import DataLoader

    from timm_stylenorm.runner.terminal import QuietRunner
    from timm_stylenorm.workers import end_with_parent

    out, num_classes = Path(args.out), settings['num_classes']
    both = {name: label_files(dataset, out, suffix) for name, suffix in SUFFIXES.items()}
    every = [*both['soft'], *both['hard']]
    refuse_others(out, every, settings, args.force)
    files = both[settings['kind']]
    if before(out) != settings or not all(is_whole(file, num_classes) for file in files):
        runner = QuietRunner.from_cfg(cfg)
        runner.load_or_resume()  # refuses a checkpoint that does not fit, while the old labels are there
        runner.model.eval()
        claim(out, every, settings)
    todo = [k for k, file in enumerate(files) if not is_whole(file, num_classes)]
    if todo:
        workers = cfg.test_dataloader.get('num_workers', 0)
        loading = dict(collate_fn=pseudo_collate, num_workers=workers, worker_init_fn=end_with_parent)
        loader = DataLoader(dataset.get_subset(todo), **loading)
        bar = ProgressBar(len(todo))
        with torch.no_grad():
            for k, batch in zip(todo, loader, strict=True):
                (sample,) = runner.model.test_step(batch)
                write(sample.seg_logits.data, files[k], args)
                bar.update()
    print(f'\n{len(todo)} labels written to {out}, {len(files) - len(todo)} were there')
    return [files[k] for k in todo]


if __name__ == '__main__':
    main()
