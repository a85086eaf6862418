"""Adapts a checkpoint to the images that a config tests on: python tools/adabn.py CONFIG CHECKPOINT [--test].

Re-estimates the batch norm statistics on the config's test images, without their labels (AdaBN), and writes a
checkpoint for tools/test.py. --images FOLDER takes other images, which need no labels and no layout. If a test set has
several domains, each needs its own checkpoint (test_dataloader.dataset.only=NAME); AdaBNHook adapts to them in turn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import COUNT, at_least, check_data, data_parts, kind_of, load_config, parser, require
from mistakes import command

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner

# the option that selects one domain of a data set
ONE_DOMAIN = {
    **dict.fromkeys(('MultiDomainDataset', 'DomainConcatDataset', 'JoinedDataset'), 'only={}'),
    **dict.fromkeys(('DomainFolders', 'PACS'), '''domains="['{}']"'''),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = parser(__doc__)
    own.add_argument('checkpoint', help='.pth file')
    own.add_argument('--images', help='a folder of images without labels, adapted to in place of the test images')
    own.add_argument('--out', help='file to write (default: beside the checkpoint, NAME_adabn.pth)')
    own.add_argument('--force', action='store_true', help='overwrite --out')
    own.add_argument(
        '--momentum', type=at_least(float, 0), help='keep the old statistics and move them by this share a batch'
    )
    own.add_argument('--batch-size', type=COUNT, help="images of a batch (default: the config's, at least 8)")
    own.add_argument('--max-batches', type=COUNT, help='stop after so many batches')
    own.add_argument('--mode', choices=['tensor', 'predict'], default='tensor', help='predict: sliding windows, too')
    own.add_argument('--test', action='store_true', help='measure before and after')
    return own.parse_args(argv)


def target_file(args: argparse.Namespace) -> Path:
    """Path of the adapted checkpoint.

    Raises:
        FileExistsError: it exists already, and --force was not given.
        FileNotFoundError: its folder does not exist.
    """
    source = Path(args.checkpoint)
    out = Path(args.out) if args.out else source.with_name(f'{source.stem}_adabn.pth')
    if out.exists() and not args.force:
        raise FileExistsError(f'{out} exists; choose another --out, or overwrite it with --force')
    if not out.parent.is_dir():
        raise FileNotFoundError(f'--out {out}: no folder {str(out.parent)!r}')
    return out


def with_images(cfg: Config, folder: str) -> Config:
    """The config with its test images replaced by the images below a folder, with the same transforms.

    Raises:
        FileNotFoundError: the folder does not exist, or holds no image.
        NotADirectoryError: `folder` is a file.
    """
    from mmengine.config import Config
    from timm.data import is_img_extension

    from timm_stylenorm.datafiles import visible_files

    root = Path(folder)
    if root.is_file():
        raise NotADirectoryError(f'--images {folder} is a file; name the folder of the images')
    if not root.is_dir():
        raise FileNotFoundError(f'--images {folder}: no such folder')
    paths = [path for path in visible_files(root) if is_img_extension(path.suffix.lower())]
    if not paths:
        raise FileNotFoundError(f'--images {folder}: no image in it or below it')
    cfg = Config(cfg.to_dict())
    parts = [cfg.test_dataloader.dataset, *data_parts(cfg.test_dataloader.dataset)]
    pipeline = next((part['pipeline'] for part in parts if part.get('pipeline')), None)
    files = [str(path) for path in paths]
    cfg.test_dataloader.dataset = (
        {'type': 'UnlabelledImages', 'files': files, 'pipeline': pipeline}
        if pipeline
        else {'type': 'FolderImages', 'files': files, 'transform': parts[-1].get('transform')}
    )
    return cfg


def runner_of(cfg: Config, checkpoint: str, what: str) -> Runner:
    """A separate Runner for each purpose, since mmengine's loggers are global by name."""
    from mmengine.config import Config

    from timm_stylenorm.runner.terminal import QuietRunner

    cfg = Config(cfg.to_dict())
    cfg.load_from, cfg.resume = checkpoint, False
    cfg.experiment_name = f'{what}_{time.time_ns()}'
    return QuietRunner.from_cfg(cfg)


def adapted(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """The checkpoint with the adapted weights, without the training state."""
    from timm_stylenorm.runner.adabn import adapt_model
    from timm_stylenorm.runner.checkpoint import load_local
    from timm_stylenorm.runner.loaders import domains, target_loader

    runner = runner_of(cfg, args.checkpoint, 'adabn')
    runner.load_or_resume()
    loader = target_loader(runner.build_dataloader(cfg.test_dataloader), args.batch_size)
    names = sorted({name for name in domains(loader.dataset) if name is not None})
    if len(names) > 1:
        key = ONE_DOMAIN.get(kind_of(cfg.test_dataloader.dataset), '').format(names[0])
        choice = f' test_dataloader.dataset.{key}' if key else ''
        raise ValueError(
            f'{args.config} tests on {len(names)} domains ({", ".join(names)}), and a checkpoint fits one; '
            f'choose it by --cfg-options{choice}, or adapt to each while testing: custom_hooks=[dict(type="AdaBNHook")]'
        )
    options = {'momentum': args.momentum, 'max_batches': args.max_batches, 'mode': args.mode}
    model = adapt_model(runner.model, loader, **options)
    old = load_local(args.checkpoint, map_location='cpu')
    meta = {**(old.get('meta') or {}), 'adabn': {**options, 'config': args.config, 'batch_size': loader.batch_size}}
    return {'meta': meta, 'state_dict': {key: value.cpu() for key, value in model.state_dict().items()}}


def write(content: dict[str, Any], out: Path) -> None:
    """Writes through a temporary file, so that an interrupted run leaves no incomplete checkpoint."""
    from timm_stylenorm.checkpoints import save_atomic
    from timm_stylenorm.runner.plain import to_plain

    save_atomic(to_plain(content), out)


@command
def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Entry point; returns the metrics 'before' and 'after' with --test."""
    args = parse_args(argv)
    from mmengine.dist import barrier, is_main_process

    out = target_file(args)
    cfg = load_config(args)
    require(cfg, args.config, 'test_dataloader')
    target = with_images(cfg, args.images) if args.images else cfg
    if args.test or not args.images:
        check_data(cfg.get('test_dataloader'), args.config)
    results = {}
    if args.test:
        results['before'] = runner_of(cfg, args.checkpoint, 'before').test()
    content = adapted(target, args)
    if is_main_process():
        write(content, out)
        print(f'wrote {out}')
    barrier()
    if args.test:
        results['after'] = runner_of(cfg, str(out), 'after').test()
        if is_main_process():
            print(summary(results))
    return results


def summary(results: dict[str, dict[str, float]]) -> str:
    """The metrics side by side."""
    rows = [f'{"":24}{"before":>10}{"after":>10}']
    for name, value in results['before'].items():
        rows.append(f'{name:24}{value:10.2f}{results["after"][name]:10.2f}')
    return '\n'.join(rows)


if __name__ == '__main__':
    main()
