"""Tables and pictures of results: JSON, CSV, Markdown, PNG, and one self-contained page of HTML."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import atomic_write, json_text
from .engine import Result
from .page import cell, details, note, number, page, picture, table
from .protocols import PROTOCOLS
from .scores import error, share

# Columns of timm's results files; the columns of this package come after them
TIMM_COLUMNS = ('model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation')


def write_report(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write results.json, results.csv, results.md, a picture for each protocol, and report.html into a folder.

    Args:
        results: Results of one or more models by one or more protocols.
        folder: Created if it does not exist.

    Returns:
        Paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: _picture(name, _of(results, name)) for name in _protocols(results)}
    texts: dict[str, str | bytes] = {
        'results.json': json_text([result.to_dict() for result in results]),
        'results.csv': _csv(results),
        'results.md': _markdown(results),
        'report.html': _html(results, pictures),
    }
    files = []
    texts |= {f'{name}.png': data for name, data in pictures.items()}
    for name, content in texts.items():
        with atomic_write(folder / name) as part:
            part.write_bytes(content if isinstance(content, bytes) else content.encode())
        files.append(folder / name)
    return files


def read_results(file: Path) -> list[Result]:
    """The results in a file `results.json`."""
    entries = json.loads(file.read_text())
    for entry in entries:
        entry['scores'] = {name: math.nan if value is None else value for name, value in entry['scores'].items()}
    return [Result(**entry) for entry in entries]


def _protocols(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.protocol for result in results))


def _of(results: Sequence[Result], protocol: str) -> list[Result]:
    return [result for result in results if result.protocol == protocol]


def _metrics(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(metric for result in results for metric in result.scores))


def _sum(result: Result, name: str) -> int:
    return sum(count[name] for count in result.cells.values())


def _model(result: Result) -> str:
    return str(result.provenance['model'])


def _csv(results: Sequence[Result]) -> str:
    """A row for each model and protocol."""
    scores = _metrics(results)
    own = [name for name in scores if name not in TIMM_COLUMNS]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow([*TIMM_COLUMNS, 'protocol', *own, 'images', 'weights', 'weight_hash'])
    for result in results:
        facts = {'model': _model(result), 'protocol': result.protocol, **result.provenance['config']}
        facts |= {name: f'{value:.3f}' for name, value in result.scores.items()}
        for name in ('top1', 'top5'):
            if name in result.scores:
                facts[f'{name}_err'] = f'{100 - result.scores[name]:.3f}'
        images = _sum(result, 'total')
        rest = [images, result.provenance['weights'], result.provenance['weight_hash']]
        columns = [*TIMM_COLUMNS, 'protocol', *own]
        writer.writerow([*(facts.get(name, '') for name in columns), *rest])
    return buffer.getvalue()


def _markdown(results: Sequence[Result]) -> str:
    parts = []
    for name in _protocols(results):
        own, row = _of(results, name), PROTOCOLS[name]
        metrics = _metrics(own)
        lines = [f'## {row.title}', '', f'| model | weights | {" | ".join(metrics)} | images |']
        lines.append('|---|---|' + '---:|' * (len(metrics) + 1))
        for result in own:
            values = [f'{result.scores[m]:.2f}' if m in result.scores else '' for m in metrics]
            images = _sum(result, 'total')
            names = (text.replace('|', '\\|') for text in (_model(result), str(result.provenance['weights'])))
            lines.append(f'| {" | ".join([*names, *values, str(images)])} |')
        parts.append('\n'.join([*lines, '', *_notes(name, own)]))
    return '\n\n'.join(parts) + '\n'


def _notes(name: str, results: Sequence[Result]) -> list[str]:
    """What a reader of the table must know."""
    row = PROTOCOLS[name]
    notes = [f'{row.paper}.', f'{row.note[:1].upper()}{row.note[1:]}.' if row.note else '']
    for result in results:
        told = result.provenance
        if told['batch_norms'] != 'clean':
            notes.append(f'{_model(result)}: through its {told["batch_norms"]} batch norms.')
        if told['missing']:
            notes.append(f'{_model(result)}: without {", ".join(told["missing"])}.')
        for key in ('subset', 'limit', 'corruptions'):
            if told.get(key):
                notes.append(f'{_model(result)}: {key} {told[key]}.')
        damaged = _sum(result, 'damaged')
        if damaged:
            notes.append(f'{_model(result)}: {damaged} files could not be read.')
    return [note for note in dict.fromkeys(notes) if note]


def _html(results: Sequence[Result], pictures: Mapping[str, bytes]) -> str:
    sections = []
    for name in _protocols(results):
        own = _of(results, name)
        metrics = _metrics(own)
        rows = [
            [cell(_model(r)), cell(r.provenance['weights']), *(number(r.scores.get(m)) for m in metrics)] for r in own
        ]
        parts = [table(['model', 'weights', *metrics], rows)]
        cells = list(dict.fromkeys(part for r in own for part in r.cells))
        if len(cells) > 1:
            rows = [[cell(part), *(_counted(r, part) for r in own)] for part in cells]
            parts.append(table(['part', *map(_model, own)], rows))
        notes = ''.join(map(note, _notes(name, own)))
        parts.append(picture(name, pictures[name]))
        sections.append(f'<h2 id="{name}">{html.escape(PROTOCOLS[name].title)}</h2>{notes}{"".join(parts)}')
    told = json.dumps([result.provenance for result in results], indent=1)
    return page('Robustness', *sections, details('What was measured', told))


def _counted(result: Result, part: str) -> str:
    """A cell with the share of right answers, and the counts under the pointer."""
    count = result.cells.get(part)
    if count is None:
        return number(None)
    counts = ', '.join(f'{key} {value}' for key, value in count.items())
    return number(share(count, 'shape' if 'shape' in count else 'top1'), counts)


def _picture(name: str, results: Sequence[Result]) -> bytes:
    """A heat map of parts and models, or bars if there is only one part."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys(cell for result in results for cell in result.cells))
    groups = list(dict.fromkeys(cell.partition('/')[0] for cell in cells))
    labels = [_model(result) for result in results]
    figure = Figure(figsize=(max(6, 1.5 + 0.45 * len(groups)), 2.2 + 0.45 * len(labels)), layout='constrained')
    axes = figure.add_subplot()
    if len(groups) > 1:
        values = [[_mean_error(result, group) for group in groups] for result in results]
        shown = axes.imshow(values, vmin=0, vmax=100, cmap='magma_r', aspect='auto')
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                colour = 'white' if value > 55 else 'black'
                axes.text(j, i, f'{value:.0f}', ha='center', va='center', fontsize=8, color=colour)
        axes.set_xticks(range(len(groups)), groups, rotation=60, ha='right')
        axes.set_yticks(range(len(labels)), labels)
        figure.colorbar(shown, ax=axes, label='error, %')
        axes.set_title(f'{PROTOCOLS[name].title}: mean error over what there is of each')
    else:
        metrics = _metrics(results)
        width = 0.8 / max(len(metrics), 1)
        for k, metric in enumerate(metrics):
            heights = [result.scores.get(metric, 0.0) for result in results]
            axes.barh([i + k * width for i in range(len(labels))], heights, width, label=metric)
        axes.set_yticks([i + 0.4 - width / 2 for i in range(len(labels))], labels)
        axes.set_xlabel('%')
        axes.legend()
        axes.set_title(PROTOCOLS[name].title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=130)
    return buffer.getvalue()


def _mean_error(result: Result, group: str) -> float:
    found = [error(count) for cell, count in result.cells.items() if cell.partition('/')[0] == group]
    return sum(found) / len(found) if found else float('nan')
