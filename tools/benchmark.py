"""Speed and memory of all layers: Markdown on the terminal, OUT.json, and the tables of docs/performance.md.

    python tools/benchmark.py --update docs/performance.md
    python tools/benchmark.py --quick --sections eager --layers padain snr

Layers act in every call (p=1) and run in float32 on one thread. In each round all layers take turns; a number is the
median over the rounds of the ratio to the base of the same round, with its 10 % and 90 % quantiles in brackets. Times
are CPU times of the process, so that other programs disturb little. Sections:

    eager     forward and backward against nn.BatchNorm2d in training mode
    compiled  layers compiled with inductor against the eager nn.BatchNorm2d
    recycled  eager and, where it is measured, compiled in a process whose allocator keeps freed memory
    saved     bytes kept for the backward pass, in units of the input map
    steps     whole training steps of models against the plain model
    breaks    graph breaks of one training call under torch.compile
    passes    on a GPU, counted on a CPU: passes over the map (its kernels forward + backward; other kernels)
    cuda      `--device cuda`: eager on a GPU, by CUDA events, in float32 and bfloat16, against BatchNorm2d, with the
              plain formula's ratio and the peak of memory in units of the input
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.runs import read_json, write_json
from cli import COUNT
from disk import write_text
from mistakes import command
from processes import run
from tqdm import tqdm

if TYPE_CHECKING:
    from bench.measure import Cell

SECTIONS = ('eager', 'compiled', 'recycled', 'saved', 'steps', 'breaks', 'passes', 'cuda')
FORMATS = ('NCHW', 'channels_last')
MARKS = '<!-- benchmark -->\n', '<!-- /benchmark -->'


@dataclass(frozen=True)
class Sizes:
    """The sizes at which layers are measured."""

    shapes: tuple[tuple[int, ...], ...] = ((32, 256, 56, 56), (32, 64, 112, 112), (8, 256, 128, 128))
    models: tuple[tuple[str, int, int], ...] = (('resnet18', 8, 224), ('resnet50', 4, 160), ('resnet50', 16, 112))
    saved: tuple[int, ...] = (8, 64, 56, 56)


QUICK = Sizes(shapes=((4, 16, 14, 14),), models=(('resnet18', 4, 64),), saved=(4, 16, 28, 28))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sections', nargs='+', choices=SECTIONS, default=list(SECTIONS), metavar='SECTION')
    parser.add_argument('--layers', nargs='+', metavar='NAME', help='default: all')
    parser.add_argument(
        '--shapes', nargs='+', type=shape_of, metavar='NxCxHxW', help='default: three shapes of 100 MB and more'
    )
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS))
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='cuda: section cuda and no other')
    parser.add_argument('--rounds', type=COUNT, help='default: 15')
    parser.add_argument('--quick', action='store_true', help='tiny shapes and 2 rounds, to see that it runs')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark'), help='OUT.json')
    parser.add_argument('--update', type=Path, metavar='FILE.md', help='write the tables into FILE.md and FILE.json')
    args = parser.parse_args(argv)
    from bench.measure import can_count, layer_classes

    from timm_stylenorm.errors import unknown

    known = list(layer_classes())
    for name in args.layers or []:
        if name not in known:
            parser.error(unknown('layer', name, known))
    args.layers = args.layers or known
    out = ('cuda',) if can_count() else ('cuda', 'passes')
    args.sections = ['cuda'] if args.device == 'cuda' else [one for one in args.sections if one not in out]
    args.rounds = args.rounds or (2 if args.quick else 15)
    sizes = QUICK if args.quick else Sizes()
    args.sizes = Sizes(tuple(args.shapes), sizes.models, sizes.saved) if args.shapes else sizes
    return args


def shape_of(text: str) -> tuple[int, ...]:
    """'32x256x56x56' -> (32, 256, 56, 56)."""
    parts = text.split('x')
    if len(parts) != 4 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f'expected NxCxHxW such as 32x256x56x56, got {text!r}')
    return tuple(map(int, parts))


def table(title: str, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """A list with one table, made from columns of (row name, cell) pairs."""
    rows: dict[str, dict[str, Any]] = {}
    for column, cells in columns.items():
        for name, cell in cells:
            rows.setdefault(name, {})[column] = cell
    return [{'title': title, 'columns': list(columns), 'rows': rows}]


def name_of(shape: tuple[int, ...]) -> str:
    """(32, 256, 56, 56) -> '32x256x56x56'."""
    return 'x'.join(map(str, shape))


def by_format_and_shape(measure: Callable[..., list], args: argparse.Namespace, bar: tqdm) -> dict[str, list]:
    """The columns, one for each memory format and shape."""
    return {
        f'{memory_format} {name_of(shape)}': measure(args.layers, shape, memory_format, args.rounds, bar)
        for memory_format in args.formats
        for shape in args.sizes.shapes
    }


def measure_eager(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The table of section eager."""
    from bench.measure import layer_ratios

    return table('Forward and backward against BatchNorm2d, eager', by_format_and_shape(layer_ratios, args, bar))


def measure_compiled(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The table of section compiled."""
    from bench.measure import compiled_ratios

    columns = {
        f'NCHW {name_of(s)}': compiled_ratios(args.layers, s, args.rounds, bar) for s in args.sizes.shapes
    }  # fmt: skip
    return table('Forward and backward against the eager BatchNorm2d, compiled with inductor', columns)


def measure_recycled(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The tables of sections eager and compiled, measured in a process with another allocator."""
    from bench.environment import RECYCLE

    sections = ['eager', *(['compiled'] if 'compiled' in args.sections else [])]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'eager'
        shapes = [name_of(shape) for shape in args.sizes.shapes]
        command = [sys.executable, __file__, '--sections', *sections, '--rounds', str(args.rounds), '--out', str(out)]
        command += ['--layers', *args.layers, '--formats', *args.formats, '--shapes', *shapes]
        status = run(command, env=RECYCLE, stdout=subprocess.DEVNULL)
        if status:
            raise SystemExit(status)
        tables = read_json(out.with_suffix('.json'))['tables']
    bar.update(turns(args, sections))
    return [{**one, 'title': f'{one["title"]}, recycled memory'} for one in tables]


def measure_saved(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The table of section saved."""
    from bench.measure import saved_maps

    names = ['BatchNorm2d', *args.layers]
    columns = {f: [(name, saved_maps(name, args.sizes.saved, f)) for name in names] for f in args.formats}
    return table('Kept for the backward pass, in units of the input map', columns)


def measure_steps(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The table of section steps."""
    from bench.measure import step_ratios

    from timm_stylenorm.methods import METHODS

    methods = [name for name in args.layers if name in METHODS]
    columns = {
        f'{arch}, batch {batch}, {size}x{size}': step_ratios(methods, arch, batch, size, args.rounds, bar)
        for arch, batch, size in args.sizes.models
    }
    return table('Training steps against the plain model, at the default sites; recipes', columns)


def measure_breaks(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The table of section breaks."""
    from bench.measure import graph_breaks

    columns = {
        title: [(name, graph_breaks(name, always, branch_free)) for name in args.layers]
        for title, always, branch_free in (
            ('default arguments', False, False),
            ('p=1', True, False),
            ('branch_free', False, True),
        )
    }
    return table('Graph breaks of one training call under torch.compile', columns)


def measure_passes(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The table of section passes."""
    from bench.passes import DTYPES, pass_cells

    names = ['BatchNorm2d', *args.layers]
    columns = {dtype: pass_cells(names, dtype) for dtype in DTYPES}
    return table('Passes over the map on a GPU: kernels that touch it, forward + backward; other kernels', columns)


def measure_cuda(args: argparse.Namespace, bar: tqdm) -> list[dict[str, Any]]:
    """The tables of section cuda."""
    from bench.measure import cuda_ratios
    from bench.passes import DTYPES

    tables = []
    for dtype in DTYPES:
        columns = by_format_and_shape(partial(cuda_ratios, DTYPES[dtype]), args, bar)
        tables += table(f'Forward and backward against BatchNorm2d, eager, on the GPU, {dtype}', columns)
    return tables


def turns(args: argparse.Namespace, sections: list[str]) -> int:
    """The number of timed calls of some sections, for the progress bar."""
    from bench.measure import RECIPES

    from timm_stylenorm.methods import METHODS

    shapes, models = len(args.sizes.shapes), len(args.sizes.models)
    columns = {'eager': len(args.formats) * shapes, 'cuda': 4 * len(args.formats) * shapes, 'compiled': shapes}
    calls = sum(columns.get(section, 0) for section in sections) * (len(args.layers) + 1)
    if 'steps' in sections:
        calls += models * (sum(name in METHODS for name in args.layers) + len(RECIPES) + 1)
    inner = turns(args, ['eager', *({'compiled'} & set(sections))]) if 'recycled' in sections else 0
    return (args.rounds + 1) * calls + inner


def show(cell: Cell | float | str | None) -> str:
    """One cell of a Markdown table."""
    if cell is None:
        return ''
    if not isinstance(cell, dict):
        return f'{cell:.2f}' if isinstance(cell, float) else str(cell)
    more = ''.join(f', {key} {cell[key]:.1f}' for key in ('plain', 'peak') if key in cell)
    return f'{cell["ratio"]:.2f} [{cell["low"]:.2f}, {cell["high"]:.2f}]{more}'


def markdown(result: dict[str, Any]) -> str:
    """All tables and the environment in Markdown."""
    parts = []
    for one in result['tables']:
        lines = [f'### {one["title"]}', '', f'| layer | {" | ".join(one["columns"])} |']
        lines.append(f'|---|{"---:|" * len(one["columns"])}')
        for name, cells in one['rows'].items():
            lines.append(f'| {name} | {" | ".join(show(cells.get(column)) for column in one["columns"])} |')
        parts.append('\n'.join(lines))
    said = ', '.join(f'{key} {value}' for key, value in result['environment'].items() if value is not None)
    return '\n\n'.join([*parts, f'{result["rounds"]} rounds; {said}.'])


def around_tables(file: Path) -> tuple[str, str]:
    """The text of a Markdown file before and after the tables."""
    before, start, rest = file.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not end:
        raise ValueError(f'{file} has no lines {MARKS[0].strip()} and {MARKS[1]}')
    return before + start, end + after


def update(file: Path, result: dict[str, Any]) -> None:
    """Writes the tables between the marks of a Markdown file, and the numbers to a file beside it."""
    before, after = around_tables(file)
    write_text(file, f'{before}\n{markdown(result)}\n\n{after}')
    write_json(file.with_suffix('.json'), result)


@command
def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Entry point; returns the content of OUT.json."""
    args = parse_args(argv)
    import torch

    if args.update:
        around_tables(args.update)  # refuses a page without marks now, not after half an hour
    torch.set_num_threads(1)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: torch finds no CUDA device here')
    from bench.environment import environment

    result: dict[str, Any] = {'environment': environment(), 'rounds': args.rounds, 'tables': []}
    with tqdm(total=turns(args, args.sections), unit='call', smoothing=0.02) as bar:
        for section in args.sections:
            bar.set_description(section)
            result['tables'] += globals()[f'measure_{section}'](args, bar)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out.with_suffix('.json'), result)
    if args.update:
        update(args.update, result)
    print(markdown(result))
    return result


if __name__ == '__main__':
    main()
