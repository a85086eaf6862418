"""Conversion of labels to train ids, pair by pair: shared code of the data set converters.

A stopped run continues where it stopped. Every bad pair is listed, with its reason, in `prepare_report.json`; the exit
code is 1 if there is any. With --skip-bad it is 0, and `splits/good.txt` lists the good pairs, for `ann_file`.
"""

import errno
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from disk import claimed, write_text
from labels.reading import BadPair, Pair, Pairs, is_current, read_pair, sole
from labels.table import save_png
from processes import pool
from tqdm import tqdm

DONE, KEPT, GOOD, LEFT_OUT = 'converted', 'already there', 'good', 'left out (known defects)'


class Result(NamedTuple):
    """The outcome for a pair: DONE, KEPT, GOOD, LEFT_OUT, or the kind of a fault, and its details."""

    name: str
    outcome: str
    detail: str = ''


def convert_pair(pairs: Pairs, pair: Pair, overwrite: bool = False) -> str:
    """Check one pair and write its train ids; returns DONE or KEPT, raises `BadPair`."""
    image, label = sole(pair.images, 'image'), sole(pair.labels, 'label')
    if not overwrite and is_current(pair.target, label, image):
        return KEPT
    save_png(pair.target, read_pair(image, label, pairs.read))
    return DONE


def _attempt(pairs: Pairs, overwrite: bool, pair: Pair) -> Result:
    """`convert_pair` for a worker process."""
    try:
        return Result(pair.name, convert_pair(pairs, pair, overwrite))
    except BadPair as bad:
        return Result(pair.name, bad.kind, bad.detail)


def run_parallel(work: Callable, items: Iterable, workers: int, title: str) -> Iterator:
    """Map over items in order with a progress bar; with one worker, in this process."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        yield from tqdm(map(work, items), total=len(items), desc=title)
        return
    with pool(min(workers, len(items))) as processes:
        chunk = max(1, min(16, len(items) // (4 * workers)))
        yield from tqdm(processes.map(work, items, chunksize=chunk), total=len(items), desc=title)


def cpu_count() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def writable(folder: Path) -> None:
    """Create a folder if it does not exist.

    Raises:
        PermissionError: Files cannot be written to it; the message says how to write them elsewhere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise PermissionError(
            f'{folder} cannot be written ({error.strerror}); --out FOLDER writes labels, report and lists elsewhere'
        ) from error


def report(out: Path, results: list[Result]) -> tuple[list[str], list[Result]]:
    """Write prepare_report.json and print the summary; returns the good names and the bad pairs."""
    good = [result.name for result in results if result.outcome in (DONE, KEPT, GOOD)]
    bad = [result for result in results if result.outcome not in (DONE, KEPT, GOOD, LEFT_OUT)]
    counts = Counter(result.outcome for result in results)
    entries = [{'name': name, 'kind': kind, 'detail': detail} for name, kind, detail in bad]
    content: dict[str, Any] = {'pairs': len(results), 'counts': counts, 'bad': entries}
    left_out = [result.name for result in results if result.outcome == LEFT_OUT]
    if left_out:
        content['left_out'] = left_out
    file = out / 'prepare_report.json'
    write_text(file, json.dumps(content, indent=2) + '\n')
    print(f'{len(results)} pairs: ' + ', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items())))
    for entry in bad[:20]:
        print(f'  {entry.outcome}: {entry.detail}')
    if len(bad) > 20:
        print(f'  ... and {len(bad) - 20} more in {file}')
    return good, bad


def finish(out: Path, results: list[Result], skip_bad: bool) -> int:
    """Write the report and, with `skip_bad`, the list of the good pairs; returns the exit code."""
    good, bad = report(out, results)
    if not good:
        print(f'error: no usable image/label pair; {out / "prepare_report.json"} tells why', file=sys.stderr)
        return 1
    if bad and not skip_bad:
        print(f'{len(bad)} bad pairs, listed in the report; --skip-bad writes a split without them')
        return 1
    if skip_bad:
        split = out / 'splits' / 'good.txt'
        split.parent.mkdir(exist_ok=True)
        write_text(split, '\n'.join(good) + '\n')
        print(f'{len(good)} good pairs listed in {split}')
    return 0


def convert(
    pairs: Pairs, root: Path, workers: int, overwrite: bool = False, skip_bad: bool = False, out: Path | None = None
) -> int:
    """Convert all pairs below a root; returns 0 if all are good, or `skip_bad` leaves the bad ones out.

    Args:
        pairs: Description of the data set's pairs.
        root: Folder of the data set.
        workers: Number of processes.
        overwrite: Convert again even if the target exists.
        skip_bad: Write a list of the good pairs.
        out: Folder for labels, report and list, if it is not the root.
    """
    found = pairs.scan(root, out)
    out = out or root
    writable(out)
    with claimed(out, 'a converter'):
        writable(out / pairs.targets)
        work = partial(_attempt, pairs, overwrite)
        status = finish(out, list(run_parallel(work, found, workers, f'{pairs.title} labels')), skip_bad)
    if out != root:
        tell_reader(pairs.images, out / pairs.targets)
    return status


def tell_reader(images: str, labels: Path) -> None:
    """Print the settings with which a data set finds labels in another folder."""
    print(f"a data set reads them by data_prefix=dict(img_path='{images}', seg_map_path='{labels.resolve()}')")
