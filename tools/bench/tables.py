"""Results as tables: mean and spread over seeds, in Markdown and JSON."""

import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from bench.rows import Study
from bench.runs import spread, write_json
from disk import write_text

PACKAGES = (
    'torch',
    'timm',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmsegmentation',
    'mmengine',
    'mmsegmentation',
    'numpy',
)
SECONDS = 'training, s'
Results = list[dict[str, Any]]
Table = dict[str, dict[str, tuple[float, float]]]  # row -> column -> mean and sample standard deviation


def summarise(results: Results, study: Study) -> Table:
    """Mean and spread by row: of each test domain, of the mean of several unseen domains, and of the time."""
    mine = [result for result in results if result['study'] == study.title]
    table: Table = {}
    for name in study.shown:
        runs = [_columns(result, study) for result in mine if result['method'] == name]
        if runs:
            table[name] = {column: spread([run[column] for run in runs]) for column in runs[0]}
    return table


def _columns(result: Mapping[str, Any], study: Study) -> dict[str, float]:
    scores = result['scores']
    others = [value for domain, value in scores.items() if domain not in study.seen]
    average = {study.others: mean(others)} if len(others) > 1 else {}
    return {**scores, **average, SECONDS: result['seconds']}


def seeds_of(results: Results) -> list[int]:
    """The seeds in some results."""
    return sorted({result['seed'] for result in results})


def grid(corner: str, table: Table, columns: Mapping[str, str], results: Results) -> list[list[str]]:
    """Lines of cells, header first: means, with their spread if there are several seeds.

    Args:
        corner: The first cell of the header.
        table: The table to show.
        columns: The columns to show, with their titles.
        results: The results that the table summarises.
    """
    several = len(seeds_of(results)) > 1

    def cell(column: str, value: tuple[float, float]) -> str:
        shown = [f'{number:.{0 if column == SECONDS else 1}f}' for number in value]
        return ' ± '.join(shown) if several else shown[0]

    lines = [[name, *(cell(c, values[c]) if c in values else '' for c in columns)] for name, values in table.items()]
    return [[corner, *columns.values()], *lines]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, in which all columns but the first are numbers."""
    head, *rows = [f'| {" | ".join(line)} |' for line in lines]
    return '\n'.join([head, f'|---|{"---:|" * (len(lines[0]) - 1)}', *rows])


def columns_of(table: Table) -> list[str]:
    """Names of all columns that occur in any row."""
    return list(dict.fromkeys(column for values in table.values() for column in values))


def versions() -> dict[str, str]:
    """Versions of the packages on which the numbers depend."""
    installed = {
        d.metadata['Name'].lower(): d.version for d in importlib.metadata.distributions() if d.metadata['Name']
    }
    return {'python': sys.version.split()[0], **{p: installed[p] for p in PACKAGES if p in installed}}


def write_summary(out: Path, text: str, tables: Mapping[str, Table], results: Results) -> None:
    """Writes OUT.md and OUT.json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = dict(versions=versions(), seeds=seeds_of(results), tables=tables, results=results)
    write_json(out.with_name(f'{out.name}.json'), summary)
    write_text(out.with_name(f'{out.name}.md'), text + '\n')
