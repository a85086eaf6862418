"""Adaptation on drawn streets: source only, AdaBN, MaxSquare, FADA, and pAdaIN with FADA; mIoU on the target.

    python tools/benchmark_adaptation.py [--seeds 0 1 2] [--iters 240] [--jobs 2] [--work-dir work_dirs/adaptation]

Every seed trains a chain: the source-only segmentors, with and without pAdaIN, and from them the adapted ones that see
the target's training images without labels. Each is tested on the target's validation images, as it is and with batch
norm statistics of those images (AdaBN). Writes summary.json, summary.md, summary.png (points and error bars) and
pictures.png (predictions of the first seed) into --work-dir. Finished trainings are not repeated while their config
stays the same, interrupted ones resume.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bench.runs import fingerprint, read_json, spread, write_json
from cli import COUNT, SEED, load_config, parser
from demo import call, cell, restart, versions
from disk import claimed, save_figure, write_text
from mistakes import command
from processes import run as run_tool

CONFIG = 'quickstart/deeplabv3plus_r18-small{}_toy-streets.py'
TARGET = Path('data/toy_streets/cityscapes')


class Row(NamedTuple):
    """A training: the config's part of its name, the row from whose weights it starts, and the style on top."""

    config: str
    start: str | None = None
    style: tuple[str, ...] = ()


ROWS = {
    'source only': Row('_1xb8-240'),
    'source only, longer': Row('_1xb8-240', 'source only'),
    'MaxSquare': Row('_maxsquare_1xb4-240', 'source only'),
    'weighted MaxSquare': Row('_iw-maxsquare_1xb4-240', 'source only'),
    'FADA': Row('_fada_1xb4-240', 'source only'),
    'pAdaIN': Row('_1xb8-240', style=('--style', 'padain', 'p=0.05')),
    'pAdaIN + FADA': Row('_fada-padain_1xb4-240', 'pAdaIN'),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('--seeds', nargs='+', type=SEED, default=[0, 1, 2])
    own.add_argument(
        '--iters', type=COUNT, default=240, help='of the source-only trainings; adaptation takes half as many'
    )
    own.add_argument('--jobs', type=COUNT, default=2, help='seeds at a time, one thread each')
    own.add_argument('--work-dir', type=Path, default=Path('work_dirs/adaptation'))
    return own.parse_args(argv)


def folder(name: str, seed: int, args: argparse.Namespace) -> Path:
    """Where a training leaves its files."""
    return args.work_dir / f'{name.replace(" ", "_").replace(",", "")}-seed{seed}'


def options(name: str, seed: int, args: argparse.Namespace) -> list[str]:
    """What is changed in the config of a row, as --cfg-options."""
    iters = args.iters if ROWS[name].start is None else args.iters // 2
    schedule = [f'train_cfg.max_iters={iters}', f'train_cfg.val_interval={10**9}', f'max_iters={iters}']
    if '1xb8' in ROWS[name].config:  # warms up first
        warmup = min(20, 1 + iters // 4)
        schedule += [f'param_scheduler.0.end={warmup}', f'param_scheduler.1.begin={warmup}']
        schedule += [f'param_scheduler.1.end={iters}']
    else:
        schedule += [f'param_scheduler.0.end={iters}']
    start = ROWS[name].start
    if start and 'longer' in name:
        schedule += ['optim_wrapper.optimizer.lr=5e-4']  # as the adapted ones
    return schedule + ([f'load_from={checkpoint(folder(start, seed, args))}'] if start else [])


def checkpoint(run: Path) -> str:
    """The newest checkpoint of a training."""
    return (run / 'last_checkpoint').read_text().strip()


def test(name: str, run: Path, adabn: bool) -> float:
    """mIoU on the target of the newest checkpoint of a training, in percent."""
    from mmengine.runner import Runner

    line = [CONFIG.format(ROWS[name].config), *ROWS[name].style, '--work-dir', str(run / 'test')]
    cfg = load_config(parser('').parse_args(line))
    cfg.custom_hooks += [{'type': 'AdaBNHook', 'on': ('test',)}] if adabn else []
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_evaluator.update(output_dir=None if adabn else str(run / 'predictions'), keep_results=True)
    cfg.load_from, cfg.log_level = checkpoint(run), 'WARNING'
    cfg.experiment_name = f'{run.name}_{time.time_ns()}'  # mmengine's loggers are global by name
    return float(Runner.from_cfg(cfg).test()['mIoU'])


def run_row(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains and tests one row with one seed, unless that was done before."""
    run, config, changed = folder(name, seed, args), CONFIG.format(ROWS[name].config), options(name, seed, args)
    style = ROWS[name].style
    content = load_config(parser('').parse_args([config, *style, '--cfg-options', *changed])).to_dict()
    asked = {'row': name, 'seed': seed, 'content': fingerprint({k: v for k, v in content.items() if k != 'work_dir'})}
    done, order = run / 'result.json', run / 'asked.json'
    if done.is_file() and asked.items() <= (result := read_json(done)).items():
        return result
    if run.is_dir() and (not order.is_file() or read_json(order) != asked):
        restart(run)
    run.mkdir(parents=True, exist_ok=True)
    write_json(order, asked)
    begun, resume = time.time(), ['--resume'] if (run / 'last_checkpoint').is_file() else []
    call('train.py', config, *style, '--work-dir', str(run), '--seed', str(seed), *resume, '--cfg-options', *changed)
    result = {**asked, 'seconds': round(time.time() - begun)}
    result |= {'plain': test(name, run, adabn=False), 'adabn': test(name, run, adabn=True)}
    write_json(done, result)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, one row a training."""
    lines = ['| training | mIoU on the target | with AdaBN |', '|---|---:|---:|']
    for name in ROWS:
        mine = [result for result in results if result['row'] == name]
        lines.append(f'| {name} | {cell([r["plain"] for r in mine])} | {cell([r["adabn"] for r in mine])} |')
    return '\n'.join(lines)


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Points with their standard deviation, as tested and with AdaBN."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 3.4))
    for key, marker, label in (('plain', 's', 'as trained'), ('adabn', 'o', 'with AdaBN')):
        points = [spread([r[key] for r in results if r['row'] == name]) for name in ROWS]
        means, deviations = zip(*points, strict=True)
        ax.errorbar(means, range(len(ROWS))[::-1], xerr=deviations, fmt=marker, capsize=3, label=label)
    ax.set_yticks(range(len(ROWS))[::-1], ROWS)
    ax.set_xlabel('mIoU on the target, %')
    ax.set_title('Toy streets: game to other domain', loc='left')
    ax.grid(axis='x', linewidth=0.3)
    ax.legend(frameon=False)
    ax.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    save_figure(figure, file, dpi=120)
    plt.close(figure)


def draw(seed: int, args: argparse.Namespace, file: Path) -> None:
    """Images of the target, labels and predictions side by side."""
    import matplotlib

    matplotlib.use('Agg')
    import numpy as np
    from figures.demo import colour
    from matplotlib import pyplot as plt
    from mmseg.datasets import CityscapesDataset
    from PIL import Image

    palette = np.array(CityscapesDataset.METAINFO['palette'], np.uint8)
    images = sorted((TARGET / 'leftImg8bit/val').rglob('*.png'))
    images = images[:: max(1, len(images) // 4)][:4]
    titles = ['image', 'labels', *ROWS]
    figure, axes = plt.subplots(len(images), len(titles), figsize=(2.6 * len(titles), 1.45 * len(images)))
    for row, image in zip(axes, images, strict=True):
        label = image.name.replace('leftImg8bit', 'gtFine_labelTrainIds')
        files = [TARGET / 'gtFine/val' / image.parent.name / label]
        files += [folder(name, seed, args) / 'predictions' / image.name for name in ROWS]
        panels = [np.asarray(Image.open(image)), *(colour(np.asarray(Image.open(f)), palette) for f in files)]
        for ax, panel, title in zip(row, panels, titles, strict=True):
            ax.imshow(panel)
            ax.set(xticks=[], yticks=[])
            if image is images[0]:
                ax.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    save_figure(figure, file, dpi=100)
    plt.close(figure)


def side_by_side(args: argparse.Namespace) -> None:
    """One process for each seed, --jobs at a time."""
    common = ['--iters', str(args.iters), '--work-dir', str(args.work_dir)]

    def one(seed: int) -> int:
        with (args.work_dir / f'seed{seed}.log').open('w') as log:
            command = [sys.executable, __file__, '--seeds', str(seed), '--jobs', '1', *common]
            return run_tool(command, stdout=log, stderr=subprocess.STDOUT)

    with ThreadPoolExecutor(args.jobs) as pool:
        codes = dict(zip(args.seeds, pool.map(one, args.seeds), strict=True))
    failed = [f'{args.work_dir}/seed{seed}.log' for seed, code in codes.items() if code]
    if failed:
        raise SystemExit(f'failed, see {", ".join(failed)}')


@command
def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Entry point; returns one result for every row and seed."""
    args = parse_args(argv)
    with claimed(args.work_dir, 'this benchmark', 'choose another --work-dir'):
        return compare(args)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs what is missing, and writes the summary."""
    call('prepare_toy_streets.py', str(TARGET.parent))
    if args.jobs > 1 and len(args.seeds) > 1:
        side_by_side(args)
    results = [run_row(name, seed, args) for seed in args.seeds for name in ROWS]
    if args.jobs > 1 or len(args.seeds) > 1:
        text = table(results)
        write_json(args.work_dir / 'summary.json', {'versions': versions(), 'iters': args.iters, 'results': results})
        write_text(args.work_dir / 'summary.md', text + '\n')
        plot(results, args.work_dir / 'summary.png')
        draw(args.seeds[0], args, args.work_dir / 'pictures.png')
        print(
            f'\n{text}\n\nmIoU in percent, seeds {", ".join(map(str, args.seeds))}; plot and pictures: {args.work_dir}'
        )
    return results


if __name__ == '__main__':
    main()
