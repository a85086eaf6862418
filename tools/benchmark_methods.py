"""Every method on both embedded benchmarks: Fashion-MNIST and toy streets, mean and spread over seeds.

    python tools/benchmark_methods.py [--methods baseline snr ibn_a] [--seeds 0 1 2] [--jobs 2]

Runs benchmark_fashion_mnist.py and demo.py once for each method and seed, --jobs at a time with one thread each, and
writes the table, single results and a plot with error bars: summary.md, summary.json and summary.png in --work-dir.
Finished runs are not repeated, interrupted ones resume; a run that fails is named at the end and does not stop the
others. The iterations are fewer than those of the shipped configs, so that all methods fit into 90 minutes on 2 cores.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from bench.runs import read_json, spread, write_json
from cli import COUNT, SEED, check_methods
from disk import claimed, save_figure, write_text
from mistakes import command
from processes import run as run_tool
from processes import start
from tqdm import tqdm

TOOLS = Path(__file__).resolve().parent
COLUMNS = {  # benchmark -> what is known, what is new
    'fashion_mnist': ('clean', 'shifted'),
    'toy_streets': ('seen', 'unseen'),
}
TITLES = {'fashion_mnist': 'Fashion-MNIST, top-1 accuracy, %', 'toy_streets': 'toy streets, mIoU, %'}


@dataclass(frozen=True)
class Job:
    """One method, one seed, one benchmark."""

    benchmark: str
    method: str
    seed: int
    iters: int
    folder: Path

    @property
    def out(self) -> Path:
        """Name of the results, without suffix."""
        return self.folder / self.benchmark / f'{self.method}-{self.seed}'

    def command(self) -> list[str]:
        """What is run."""
        common = ['--methods', self.method, '--seeds', str(self.seed), '--iters', str(self.iters)]
        if self.benchmark == 'fashion_mnist':
            folder = self.out.parent / 'runs' / self.out.name
            script = ['benchmark_fashion_mnist.py', '--work-dir', str(folder)]
        else:
            script = ['demo.py']
        return [sys.executable, str(TOOLS / script[0]), *script[1:], *common, '--out', str(self.out)]

    def result(self) -> dict[str, float]:
        """What was measured, by column."""
        if self.benchmark == 'toy_streets':
            (run,) = read_json(self.out / 'results.json')['results']
            return {key: run[key] for key in COLUMNS['toy_streets']}
        (run,) = read_json(self.out.with_name(self.out.name + '.json'))['runs']
        shifted = [value for name, value in run['accuracy'].items() if name != 'clean']
        return {'clean': run['accuracy']['clean'], 'shifted': mean(shifted)}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--methods', nargs='+', help='default: baseline, adabn and all style methods')
    parser.add_argument('--benchmarks', nargs='+', default=list(COLUMNS), choices=COLUMNS)
    parser.add_argument('--seeds', nargs='+', type=SEED, default=[0, 1, 2])
    parser.add_argument('--jobs', type=COUNT, default=2, help='runs at a time, one thread each')
    parser.add_argument('--fashion-mnist-iters', type=COUNT, default=200)
    parser.add_argument('--toy-streets-iters', type=COUNT, default=80)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/methods'))
    args = parser.parse_args(argv)
    if args.methods is None:
        from bench.names import KNOWN

        args.methods = list(KNOWN)
    check_methods(parser, args.methods)
    return args


def run(job: Job) -> float:
    """Runs a job; returns its seconds of processor time.

    Raises:
        RuntimeError: it failed; names its log.
    """
    log = job.folder / 'logs' / f'{job.benchmark}-{job.method}-{job.seed}.log'
    log.parent.mkdir(parents=True, exist_ok=True)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    env = {'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    with log.open('w') as stream:
        process = start(job.command(), stdout=stream, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f'{job.method}, seed {job.seed}, {job.benchmark}: exit code {process.returncode}, see {log}')
    return usage.ru_utime + usage.ru_stime


def summarise(jobs: list[Job]) -> dict[str, dict[str, tuple[float, float]]]:
    """method -> column -> mean and standard deviation, of the jobs that are done."""
    found: dict[str, dict[str, list[float]]] = {}
    for job in jobs:
        for column, value in job.result().items():
            found.setdefault(job.method, {}).setdefault(column, []).append(value)
    return {method: {column: spread(v) for column, v in columns.items()} for method, columns in found.items()}


def markdown(table: dict[str, dict[str, tuple[float, float]]], benchmarks: list[str]) -> str:
    """Methods as rows."""
    columns = [(b, c) for b in benchmarks for c in COLUMNS[b]]
    lines = ['| method | ' + ' | '.join(f'{TITLES[b].split(",")[0]}, {c}' for b, c in columns) + ' |']
    lines.append('|---|' + '---:|' * len(columns))
    for method, values in table.items():
        cells = [f'{values[c][0]:.1f} ± {values[c][1]:.1f}' if c in values else '' for _, c in columns]
        lines.append(f'| {method} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot(table: dict[str, dict[str, tuple[float, float]]], benchmarks: list[str], file: Path) -> None:
    """A panel for each benchmark: a point and its standard deviation for each method, known and new images."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    methods = list(table)[::-1]
    figure, axes = plt.subplots(
        1, len(benchmarks), figsize=(5.5 * len(benchmarks), 1.2 + 0.32 * len(methods)), sharey=True, squeeze=False
    )
    for ax, benchmark in zip(axes[0], benchmarks, strict=True):
        for column, marker, colour in zip(COLUMNS[benchmark], 'so', ('tab:grey', 'tab:blue'), strict=True):
            for k, (value, deviation) in ((k, table[m][column]) for k, m in enumerate(methods) if column in table[m]):
                label = None if ax.get_legend_handles_labels()[1].count(column) else column
                ax.errorbar(value, k, xerr=deviation, fmt=marker, color=colour, capsize=3, label=label)
            if column in table.get('baseline', {}):
                ax.axvline(table['baseline'][column][0], color=colour, linewidth=0.8, linestyle=':')
        ax.set_yticks(range(len(methods)), methods)
        ax.set_title(TITLES[benchmark], loc='left', fontsize=10)
        ax.grid(axis='x', linewidth=0.3)
        ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)
        ax.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    save_figure(figure, file, dpi=120)
    plt.close(figure)


@command
def main(argv: list[str] | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """Entry point; returns the table."""
    args = parse_args(argv)
    with claimed(args.work_dir, 'this benchmark', 'choose another --work-dir'):
        return compare(args)


def compare(args: argparse.Namespace) -> dict[str, dict[str, tuple[float, float]]]:
    """Runs what is missing, and writes the summary."""
    iters = {'fashion_mnist': args.fashion_mnist_iters, 'toy_streets': args.toy_streets_iters}
    jobs = [Job(b, m, s, iters[b], args.work_dir) for s in args.seeds for m in args.methods for b in args.benchmarks]
    if 'toy_streets' in args.benchmarks:  # once, not by every run
        status = run_tool([sys.executable, str(TOOLS / 'prepare_toy_streets.py'), 'data/toy_streets'])
        if status:
            raise SystemExit(status)
    begun, seconds, done, failed = time.time(), {}, [], []
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(total=len(jobs), unit='run', smoothing=0) as bar:
        running = {pool.submit(run, job): job for job in jobs}
        for future in as_completed(running):
            job = running[future]
            bar.update()
            bar.set_description(f'{job.method}, seed {job.seed}, {job.benchmark}')
            try:
                seconds[f'{job.benchmark}/{job.method}/{job.seed}'] = round(future.result(), 1)
                done.append(job)
            except RuntimeError as error:
                failed.append(str(error))
    table = summarise(sorted(done, key=jobs.index)) if done else {}
    text = markdown(table, args.benchmarks)
    single = [
        {k: v for k, v in vars(job).items() if k != 'folder'} | job.result() for job in sorted(done, key=jobs.index)
    ]
    cost: dict[str, Any] = dict(processor_seconds=seconds, wall_minutes=round((time.time() - begun) / 60, 1))
    write_json(args.work_dir / 'summary.json', dict(seeds=args.seeds, table=table, runs=single, jobs=args.jobs, **cost))
    write_text(args.work_dir / 'summary.md', text + '\n')
    if table:
        plot(table, args.benchmarks, args.work_dir / 'summary.png')
    print(f'\n{text}\n\n{cost["wall_minutes"]} minutes, {sum(seconds.values()) / 60:.0f} minutes of processor time')
    if failed:
        raise SystemExit('failed:\n' + '\n'.join(failed))
    return table


if __name__ == '__main__':
    main()
