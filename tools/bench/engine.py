"""Executes the runs of a comparison, each in its own process; skips finished ones; a failure does not stop others."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from bench.plan import Run, plan
from bench.rows import Study
from bench.tables import Results
from disk import claimed
from processes import run as run_tool
from processes import start
from tqdm import tqdm

TOOLS = Path(__file__).resolve().parents[1]


def compare(
    studies: Sequence[Study],
    seeds: list[int],
    work_dir: Path,
    jobs: int,
    publish: Callable[[Results, list[Run]], str],
    keep: bool = True,
) -> Results:
    """Runs what is missing in some studies; publishes the results so far after each run, and prints them at the end.

    Seeds run one after the other, so that a stopped comparison has complete columns.

    Args:
        studies: The tables.
        seeds: Seeds of each row.
        work_dir: Folder of all files; it is claimed for this process.
        jobs: Number of processes at a time, with one thread each.
        publish: Function that writes the results of the runs passed in and returns the text to print.
        keep: Whether to keep the last checkpoint of each run; otherwise only those from which other runs start.

    Raises:
        SystemExit: Some runs failed; it names them. The results of all others are published.
    """
    with claimed(work_dir, 'a comparison', 'choose another --work-dir'):
        _prepare(studies)
        planned = [plan(study, seeds, work_dir) for study in studies]
        runs = [run for seed in seeds for every in planned for run in every if run.seed == seed]
        shown = [run for study in studies for run in runs if run.study == study.title and run.name in study.shown]

        def report() -> tuple[Results, str]:
            done = [run for run in shown if run.result_file.is_file()]
            results = [run.result() for run in done]
            return results, publish(results, done) if results else ''

        failed = execute(runs, jobs, keep, report)
        results, text = report()
        print(f'\n{text}\n')
    if failed:
        raise SystemExit('failed:\n' + '\n'.join(failed.values()))
    return results


def _prepare(studies: Sequence[Study]) -> None:
    """Prepares the data of all studies."""
    for line in dict.fromkeys(study.prepare for study in studies if study.prepare):
        status = run_tool([sys.executable, str(TOOLS / line[0]), *line[1:]])
        if status:
            raise SystemExit(status)


def execute(runs: Sequence[Run], jobs: int, keep: bool, report: Callable[[], object]) -> dict[Path, str]:
    """Executes unfinished runs, `jobs` at a time, and reports after each; returns why runs failed, by folder."""
    starts = {run.start.folder for run in runs if run.start}
    waiting = [run for run in runs if not _is_done(run, run.folder in starts)]
    failed: dict[Path, str] = {}
    running: dict[Future[str], Run] = {}
    with (
        tqdm(total=len(runs), initial=len(runs) - len(waiting), unit='run', smoothing=0) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        bar.bar_format = '{desc}{percentage:.0f}%|{bar}| {n:.2f}/{total} [{elapsed}<{remaining}]'
        while waiting or running:
            busy = {run.folder for run in (*waiting, *running.values())}
            ready = [run for run in waiting if run.start is None or run.start.folder not in busy]
            for run in ready[: jobs - len(running)]:
                waiting.remove(run)
                if run.start and run.start.folder in failed:
                    failed[run.folder] = f'{run}: not run, since {run.start} failed'
                    bar.update()
                    continue
                bar.set_description(str(run))
                running[pool.submit(_run, run, bar, keep or run.folder in starts)] = run
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                run = running.pop(future)
                if future.result():
                    failed[run.folder] = future.result()
                report()
    return failed


def _is_done(run: Run, is_start: bool) -> bool:
    """Whether the result exists, and also the weights if other runs start from them."""
    return run.result_file.is_file() and (not is_start or run.trained_file.is_file())


def _run(run: Run, bar: tqdm, keep: bool) -> str:
    """Executes a run; returns '' or why it failed."""
    run.write()
    log, percent = run.folder / 'log.txt', 0
    env = {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', '1'), 'PYTHONWARNINGS': 'ignore'}
    line = [sys.executable, str(TOOLS / 'bench' / 'worker.py'), str(run.folder)]
    with log.open('a') as stream, start(line, stdout=subprocess.PIPE, stderr=stream, env=env) as process:
        while told := os.read(process.stdout.fileno(), 100):
            percent += len(told)
            with bar.get_lock():
                bar.update(len(told) / 100)
    with bar.get_lock():
        bar.update(1 - percent / 100)
    if process.returncode:
        said = log.read_text(errors='replace').split('\n')
        return f'{run}: exit code {process.returncode}, {next(filter(None, reversed(said)), "")}, see {log}'
    if not keep:
        run.trained_file.unlink(missing_ok=True)
        for file in run.folder.glob('*.pth'):
            file.unlink()
    return ''
