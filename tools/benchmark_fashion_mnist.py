"""Fashion-MNIST, clean and in other styles: accuracy of each method, mean and spread over seeds.

    python tools/benchmark_fashion_mnist.py --methods baseline padain snr --seeds 0 1 2

Trains each method on the baseline's config (`adabn` and `isw` on their own), as bench/arguments.py says; tests it on
clean and on restyled images, prints a Markdown table and writes OUT.json and OUT.png. A finished run leaves a file in
--work-dir and is not repeated while its config stays the same, so the command can be interrupted, and methods and seeds
can be added later; after a change of the code, delete that folder. A method may carry arguments: `padain:p=0.1`.

    python tools/benchmark_fashion_mnist.py --fine-tune 300 --methods baseline advbn:lower=frozen,steps=6,step=0.2

With --fine-tune all methods start from the trained baseline of their seed, and `baseline` is plain fine-tuning.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from bench.arguments import FASHION_MNIST, place_of
from bench.runs import fingerprint, read_json, spread, write_json
from cli import COUNT, SEED, check_data, check_methods
from disk import claimed, save_figure
from mistakes import command
from tqdm import tqdm

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner
    from torch import Tensor

BASELINE = 'resnet18_1xb64-500_fashion-mnist.py'
WHAT_COUNTS = (
    'model',
    'train_dataloader',
    'test_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'custom_hooks',
    'randomness',
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--methods', nargs='+', metavar='NAME', help='default: baseline and all style methods')
    parser.add_argument('--seeds', nargs='+', type=SEED, default=[0, 1, 2])
    parser.add_argument('--data', help='folder of the idx files; default: as in the config')
    parser.add_argument('--iters', type=COUNT, help='training iterations; default: as in the config')
    parser.add_argument(
        '--fine-tune', type=COUNT, metavar='ITERS', help='start from the baseline, at a tenth of its rate'
    )
    parser.add_argument('--limit', type=COUNT, help='use at most this many images of each set')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/fashion_mnist'), help='results of single runs')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/fashion_mnist/summary'), help='OUT.json, OUT.png')
    args = parser.parse_args(argv)
    if args.methods is None:
        from bench.names import TRAINED

        args.methods = ['baseline', *TRAINED]
    check_methods(parser, [method.partition(':')[0] for method in args.methods])
    return args


def method_config(method: str) -> Config:
    """The config of `baseline`, `<method>` or `<method>:key=value,key=value`."""
    from mmengine.config import Config

    from timm_stylenorm.options import key_values
    from timm_stylenorm.runner.configs import config_root
    from timm_stylenorm.runner.restyle import put_style

    name, _, arguments = method.partition(':')
    folder = config_root() / 'classification'
    own = folder / BASELINE.replace('resnet18', f'resnet18_{name}')
    cfg = Config.fromfile(own if own.exists() else folder / BASELINE)
    if name in ('baseline', 'adabn'):
        return cfg
    place = place_of(name)
    given = key_values([*FASHION_MNIST.get(name, []), *filter(None, arguments.split(','))])
    put_style(cfg, **{place: {**cfg.model.get(place, {}), **given, 'type': name}})
    return cfg


def file_name(method: str, seed: int) -> str:
    """'padain:p=0.1', 2 -> 'padain-p-0.1_2'."""
    return f'{re.sub(r"[^a-z0-9_.]+", "-", method)}_{seed}'


def run_config(method: str, seed: int, args: argparse.Namespace, fine_tune: int | None = None) -> Config:
    """The config of one run: no validation, no checkpoints, quiet; from the weights of a start for `fine_tune`."""
    cfg = method_config(method)
    sets = [cfg.train_dataloader.dataset, *cfg.test_dataloader.dataset.domains.values()]
    for part in sets:
        part.root = args.data or part.root
        part.limit = min(part.limit, args.limit or part.limit)
    configured = cfg.train_cfg.max_iters
    iters = fine_tune or args.iters or configured
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=10**9)
    if fine_tune:
        cfg.model.init_checkpoint = str(start_file(seed, args))
        cfg.optim_wrapper.optimizer.lr /= 10
    for scheduler in cfg.param_scheduler:  # the same shape over fewer or more iterations
        begin, end = (scheduler[k] * cfg.train_cfg.max_iters // configured for k in ('begin', 'end'))
        scheduler.update(begin=begin, end=max(end, begin + 1))
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint = None
    cfg.randomness = dict(seed=seed)
    cfg.log_level = 'WARNING'
    cfg.work_dir = str(args.work_dir / 'logs' / file_name(method, seed))
    return cfg


def name_of(method: str, seed: int, cfg: Config) -> str:
    """'padain_2_' and what tells this run from others under its name."""
    said = {key: cfg.to_dict()[key] for key in WHAT_COUNTS}
    return f'{file_name(method, seed)}_{fingerprint(said)}'


def start_file(seed: int, args: argparse.Namespace) -> Path:
    """Where the weights are from which --fine-tune starts."""
    return args.work_dir / f'{name_of("baseline", seed, run_config("baseline", seed, args))}.pth'


def train(method: str, seed: int, cfg: Config, bar: tqdm) -> Runner:
    """One training."""
    from bench.progress import ProgressHook
    from mmengine.runner import Runner

    bar.set_description(f'{method}, seed {seed}')
    runner = Runner.from_cfg(cfg)
    runner.register_hook(ProgressHook(bar))
    runner.train()
    return runner


def make_start(seed: int, args: argparse.Namespace, bar: tqdm) -> None:
    """Train the baseline from which --fine-tune starts, unless it is there."""
    file, cfg = start_file(seed, args), run_config('baseline', seed, args)
    if file.exists():
        bar.update(cfg.train_cfg.max_iters)
        return
    from timm_stylenorm.checkpoints import save_atomic

    state = train('start', seed, cfg, bar).model.state_dict()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_atomic({'state_dict': state}, file)


def result_of(method: str, seed: int, cfg: Config, bar: tqdm, folder: Path) -> dict:
    """Accuracy of one run by test set, trained now or read from an earlier call with the same config."""
    file = folder / f'{name_of(method, seed, cfg)}.json'
    if file.exists():
        bar.update(cfg.train_cfg.max_iters)
        return read_json(file)
    start = time.time()
    runner = train(method, seed, cfg, bar)
    seconds = time.time() - start
    metrics = {
        name.split('/')[1]: round(value, 4) for name, value in runner.test().items() if name.count('/') == 2
    }  # accuracy/<domain>/top1
    result = dict(method=method, seed=seed, train_seconds=round(seconds, 1), accuracy=metrics)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, result)
    return result


def summarise(results: list[dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """method -> test set -> mean and sample standard deviation over seeds; `all shifts` is the mean over the shifts."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    for method in dict.fromkeys(result['method'] for result in results):
        runs = [result['accuracy'] for result in results if result['method'] == method]
        runs = [{**run, 'all shifts': mean(value for name, value in run.items() if name != 'clean')} for run in runs]
        table[method] = {name: spread([run[name] for run in runs]) for name in runs[0]}
    return table


def markdown(table: dict[str, dict[str, tuple[float, float]]]) -> str:
    """Test sets as rows, methods as columns."""
    names = list(next(iter(table.values())))
    lines = [f'| test images | {" | ".join(table)} |', f'|---|{"---:|" * len(table)}']
    for name in names:
        cells = [f'{values[name][0]:.1f} ± {values[name][1]:.1f}' for values in table.values()]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot(table: dict[str, dict[str, tuple[float, float]]], examples: dict[str, Tensor], file: Path) -> None:
    """Bars by test set and method, with the standard deviation over seeds; below them, an image of each set."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    names = list(next(iter(table.values())))
    width = 0.8 / len(table)
    figure, axes = plt.subplots(figsize=(11, 5))
    for k, (method, values) in enumerate(table.items()):
        places = [i + (k - (len(table) - 1) / 2) * width for i in range(len(names))]
        means, spreads = zip(*(values[name] for name in names), strict=True)
        axes.bar(places, means, width, yerr=spreads, capsize=2, label=method, color=plt.get_cmap('tab10')(k % 10))
    axes.axhline(10, color='grey', linewidth=0.8, linestyle=':')
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel('top-1 accuracy, %')
    axes.set_ylim(0, 100)
    axes.set_title('Fashion-MNIST in other styles (dotted: chance)', loc='left')
    axes.legend(ncols=len(table), frameon=False, loc='upper right')
    axes.spines[['top', 'right']].set_visible(False)
    for i, name in enumerate(names):
        if name in examples:
            picture = OffsetImage(examples[name].permute(1, 2, 0).numpy(), zoom=1.6, interpolation='nearest')
            box = AnnotationBbox(picture, (i, -0.22), xycoords=('data', 'axes fraction'), frameon=False)
            axes.add_artist(box)
    figure.subplots_adjust(left=0.06, right=0.99, top=0.93, bottom=0.28)
    save_figure(figure, file, dpi=120)


@command
def main(argv: list[str] | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """Entry point; returns the table."""
    args = parse_args(argv)
    with claimed(args.work_dir, 'this benchmark', 'choose another --work-dir'):
        return compare(args)


def compare(args: argparse.Namespace) -> dict[str, dict[str, tuple[float, float]]]:
    """Runs what is missing, and writes the summary."""
    import mmengine
    import timm
    import torch
    from mmengine.registry import DATASETS

    import timm_stylenorm.classification  # noqa: F401 (registers the classifier and its data)

    runs = [(method, seed) for method in args.methods for seed in args.seeds]
    configs = {(method, seed): run_config(method, seed, args, args.fine_tune) for method, seed in runs}
    check_data(next(iter(configs.values())).train_dataloader, 'the config')
    starts = {seed: run_config('baseline', seed, args) for seed in args.seeds if args.fine_tune}
    iters = sum(cfg.train_cfg.max_iters for cfg in [*configs.values(), *starts.values()])
    with tqdm(total=iters, unit='it', smoothing=0.02) as bar:
        for seed in starts:
            make_start(seed, args, bar)
        results = [result_of(*key, cfg, bar, args.work_dir) for key, cfg in configs.items()]
    table = summarise(results)
    versions = dict(python=platform.python_version(), torch=torch.__version__, timm=timm.__version__)
    versions['mmengine'] = mmengine.__version__
    args.out.parent.mkdir(parents=True, exist_ok=True)
    summary = dict(versions=versions, seeds=args.seeds, table=table, runs=results)
    write_json(args.out.with_suffix('.json'), summary)
    sets = DATASETS.build(next(iter(configs.values())).test_dataloader.dataset).datasets
    plot(table, {part.domain: part[0]['inputs'] for part in sets}, args.out.with_suffix('.png'))
    print(markdown(table))
    print(', '.join(f'{name} {version}' for name, version in versions.items()))
    return table


if __name__ == '__main__':
    main()
