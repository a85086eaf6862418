"""The whole chain on drawn streets: train on a game domain, look at another one, with and without style methods.

    python tools/demo.py [--seeds 0 1 2] [--methods baseline padain snr] [--iters 240] [--out work_dirs/demo]

Draws the data, trains every method with the same seeds, measures mIoU on the held-out part of the game domain (seen)
and on the domain that no training saw (unseen), and writes results.json, results.md and demo.png into --out. Methods
have their defaults, but for what bench/arguments.py says. Finished runs are skipped and interrupted ones resume, while
their config stays the same. The data stand in for GTA5 and Cityscapes; they say nothing about those.
"""

import argparse
import importlib.metadata
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # read with torch; threads otherwise spin on a busy machine

from bench.arguments import TOY_STREETS, words
from bench.runs import fingerprint, read_json, spread, write_json
from cli import COUNT, SEED, check_methods, load_config, parser
from disk import claimed, write_text
from mistakes import command
from processes import run as run_tool

TOOLS = Path(__file__).resolve().parent
CONFIG = 'quickstart/deeplabv3plus_r18-small{}_1xb8-240_toy-streets.py'
METHODS = ('baseline', 'padain', 'snr')
PACKAGES = ('torch', 'timm', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'numpy')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('--methods', nargs='+', default=list(METHODS))
    own.add_argument('--seeds', nargs='+', type=SEED, default=[0])
    own.add_argument('--iters', type=COUNT, help='training iterations (default: those of the config)')
    own.add_argument('--out', type=Path, default=Path('work_dirs/demo'))
    own.add_argument('--data', type=Path, default=Path('data/toy_streets'))
    args = own.parse_args(argv)
    check_methods(own, args.methods)
    return args


def config_of(method: str) -> str:
    """Name of the quickstart config of a method; the baseline's where it has none."""
    from timm_stylenorm.runner.configs import list_configs

    own = CONFIG.format(f'_{method}')
    return own if own in list_configs() else CONFIG.format('')


def style(method: str) -> list[str]:
    """What adds the method to that config, unless it has a config of its own."""
    return words(method, TOY_STREETS) if config_of(method) == CONFIG.format('') else []


def options(args: argparse.Namespace) -> list[str]:
    """What the command line changes in every config, as --cfg-options."""
    changed = [
        f'train_dataloader.dataset.data_root={args.data}/gta5',
        f'val_dataloader.dataset.data_root={args.data}/cityscapes',
        f'test_dataloader.dataset.data_root={args.data}/cityscapes',
        f'seen_dataset.data_root={args.data}/gta5',
    ]
    if args.iters:
        warmup = min(20, 1 + args.iters // 4)
        changed += [f'train_cfg.max_iters={args.iters}', f'train_cfg.val_interval={args.iters}']
        changed += [f'param_scheduler.0.end={warmup}', f'param_scheduler.1.begin={warmup}']
        changed += [f'param_scheduler.1.end={args.iters}', f'max_iters={args.iters}']
    return changed


def load(method: str, run: Path, args: argparse.Namespace) -> Any:
    """The config of a method as the demo runs it."""
    line = [config_of(method), *style(method), '--work-dir', str(run), '--cfg-options', *options(args)]
    return load_config(parser('').parse_args(line))


def call(*line: str) -> None:
    """Runs one of our tools; its output goes through, and where it fails this process ends as it did."""
    print('$', *line, flush=True)
    status = run_tool([sys.executable, str(TOOLS / line[0]), *line[1:]])
    if status:
        raise SystemExit(status)


def evaluate(method: str, run: Path, args: argparse.Namespace) -> dict[str, float]:
    """mIoU on both domains with the newest checkpoint of a run; leaves a report, and predictions for the picture."""
    from mmengine.runner import Runner

    cfg = load(method, run / 'test', args)
    domains = {'seen': cfg.seen_dataset, 'unseen': cfg.test_dataloader.dataset}
    cfg.test_dataloader.dataset = {'type': 'MultiDomainDataset', 'domains': domains}
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_evaluator = {
        'type': 'DomainIoUMetric',
        'output_dir': str(run / 'predictions'),
        'report_dir': str(run / 'report'),
    }
    cfg.load_from, cfg.log_level = (run / 'last_checkpoint').read_text().strip(), 'WARNING'
    cfg.experiment_name = f'{run.name}_{time.time_ns()}'  # mmengine's loggers are global by name
    scores = Runner.from_cfg(cfg).test()
    return {domain: scores[f'{domain}/mIoU'] for domain in domains}


def restart(run: Path) -> None:
    """Removes a run that was begun with another config, so that there is nothing to resume from."""
    with claimed(run, 'training'):  # not under the hands of one that is at work
        shutil.rmtree(run)


def run_method(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures one method with one seed, unless that was done before."""
    run = args.out / f'{method}-seed{seed}'
    said = {key: value for key, value in load(method, run, args).to_dict().items() if key != 'work_dir'}
    asked = {'method': method, 'seed': seed, 'options': [*style(method), *options(args)]}
    asked |= {'config': config_of(method), 'content': fingerprint(said)}
    done, order = run / 'result.json', run / 'asked.json'
    if done.is_file() and asked.items() <= (result := read_json(done)).items():
        print(f'{method}, seed {seed}: done before, see {done}')
        return result
    if run.is_dir() and (not order.is_file() or read_json(order) != asked):
        restart(run)
    run.mkdir(parents=True, exist_ok=True)
    write_json(order, asked)
    begun = time.time()
    extra = ['--seed', str(seed), '--resume', '--cfg-options', *options(args)]
    call('train.py', config_of(method), *style(method), '--work-dir', str(run), *extra)
    trained = time.time() - begun
    result = {**asked, **evaluate(method, run, args), 'seconds': trained}
    write_json(done, result)
    return result


def cell(values: list[float], digits: int = 1) -> str:
    """One value, or mean and sample standard deviation of several."""
    middle, deviation = spread(values)
    return f'{middle:.{digits}f}' + (f' ± {deviation:.{digits}f}' if len(values) > 1 else '')


def table(results: list[dict[str, Any]], methods: list[str]) -> str:
    """The results as a Markdown table, one row a method."""
    seeds = sorted({r['seed'] for r in results})
    rows = [
        f'| method (seeds {", ".join(map(str, seeds))}) | seen mIoU | unseen mIoU | training, s |',
        '|---|---:|---:|---:|',
    ]
    for method in methods:
        mine = [r for r in results if r['method'] == method]
        numbers = [cell([r[key] for r in mine]) for key in ('seen', 'unseen')]
        rows.append(f'| {method} | {numbers[0]} | {numbers[1]} | {cell([r["seconds"] for r in mine], 0)} |')
    return '\n'.join(rows)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    installed = {
        d.metadata['Name'].lower(): d.version for d in importlib.metadata.distributions() if d.metadata['Name']
    }
    return {'python': sys.version.split()[0], **{p: installed[p] for p in PACKAGES if p in installed}}


@command
def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Entry point; returns one result for every method and seed."""
    args = parse_args(argv)
    with claimed(args.out, 'the demo', 'choose another --out'):
        return compare(args)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs what is missing, and writes table and picture."""
    from figures.demo import draw

    os.environ.setdefault('PYTHONWARNINGS', 'ignore')
    call('prepare_toy_streets.py', str(args.data))
    results = [run_method(method, seed, args) for seed in args.seeds for method in args.methods]
    text = table(results, args.methods)
    write_json(args.out / 'results.json', {'versions': versions(), 'results': results})
    write_text(args.out / 'results.md', text + '\n')
    draw(args.out, args.data, args.methods, args.seeds[0])
    print(f'\n{text}\n\nmIoU in percent. Picture: {args.out / "demo.png"}; numbers: {args.out / "results.json"}')
    return results


if __name__ == '__main__':
    main()
