"""A diagnosis as text, JSON, PNG, and a page of HTML."""

from __future__ import annotations

import io
import json
from pathlib import Path

from ..files import atomic_write, json_text
from .diagnosis import Diagnosis, PlaceReport
from .page import cell, details, note, number, page, picture, table
from .seen import Value

_COLUMNS = {  # of the table of sites: what the note below it says of each
    'domain probe, %': 'images of which a linear probe tells the domain by their channel statistics; chance is 50',
    'regained, matched': 'on the target, with statistics of the source as a distribution',
    '% of the drop': 'the same in percent of what is lost',
    'regained, per image': 'on the target, with the statistics of a random source image',
    'harm on the source': 'with statistics of the target as a distribution',
    'agreement, %': 'predictions for the target that matched statistics leave as they were',
}


def told(diagnosis: Diagnosis) -> str:
    """The verdict, a line for each site, the best first, and the methods that act at the best one."""
    heads = ['site', 'probe %', 'regained', 'of drop', 'per image', 'harm']
    rows = [_row(place) for place in diagnosis.ranked]
    width = max(len(place.site) for place in diagnosis.places) + 2
    lines = [
        f'{diagnosis.measure} on {diagnosis.images[0]} images of the source {diagnosis.source}, '
        f'on {diagnosis.images[1]} of the target {diagnosis.target}',
        '',
        f'{heads[0]:{width}}' + ''.join(f'{head:>16}' for head in heads[1:]),
        *(f'{row[0]:{width}}' + ''.join(f'{text:>16}' for text in row[1:]) for row in rows),
        '',
        diagnosis.verdict,
    ]
    best = diagnosis.judged
    if best.is_worth and best.methods:
        lines += ['', f'methods that act at {best.site}:']
        for entry in best.methods:
            where = f'with sites={entry.sites[0]}' if entry.sites else 'by default'
            lines.append(f'  {entry.method:12} {where}' + ''.join(f'; beside it: {need}' for need in entry.needs))
    return '\n'.join(lines)


def _row(place: PlaceReport) -> list[str]:
    share = '' if place.share is None else f'{place.share.value:.0f} %'
    return [
        place.site, f'{place.domain_probe:.1f}', str(place.matched), share, str(place.per_image), str(place.harm),
    ]  # fmt: skip


def write_diagnosis(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write diagnosis.json, diagnosis.png and diagnosis.html into a folder, which is created if it is missing.

    Returns:
        Paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    png = _picture(diagnosis)
    contents = {
        'diagnosis.json': json_text(diagnosis.to_dict()).encode(),
        'diagnosis.png': png,
        'diagnosis.html': _html(diagnosis, png).encode(),
    }
    files = []
    for name, content in contents.items():
        with atomic_write(folder / name) as part:
            part.write_bytes(content)
        files.append(folder / name)
    return files


def _html(diagnosis: Diagnosis, png: bytes) -> str:
    rows = [
        [
            cell(place.site), cell(place.module), number(place.channels, digits=0), number(place.domain_probe),
            _valued(place.matched), number(None) if place.share is None else _valued(place.share),
            _valued(place.per_image), _valued(place.harm), number(place.agreement),
        ]
        for place in diagnosis.ranked
    ]  # fmt: skip
    methods = [
        [cell(place.site), cell(entry.method), cell(', '.join(entry.sites) or 'default'), cell('; '.join(entry.needs))]
        for place in diagnosis.ranked
        for entry in place.methods
    ]
    lost = f'{diagnosis.measure}: source {diagnosis.source}, target {diagnosis.target}, lost {diagnosis.drop}.'
    return page(
        'Diagnosis',
        f'<p>{diagnosis.verdict}</p>',
        note(lost + ' Values behind ± are standard errors over the images.'),
        picture('sites in the order of the network', png),
        '<h2>Sites</h2>',
        table(['site', 'module', 'channels', *_COLUMNS], rows),
        note('; '.join(f'{name}: {text}' for name, text in _COLUMNS.items()) + '.'),
        '<h2>Methods</h2>',
        table(['site', 'method', 'sites=', 'beside its layer'], methods),
        details('What was measured', json.dumps(diagnosis.provenance, indent=1, default=str)),
    )


def _valued(value: Value) -> str:
    return number(value.value, f'± {value.error:.2f}')


def _picture(diagnosis: Diagnosis) -> bytes:
    """Three rows of bars over the sites, in the order of the network."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib.figure import Figure

    places = diagnosis.places
    at = range(len(places))
    figure = Figure(figsize=(max(6, 2.5 + 0.8 * len(places)), 7.5), layout='constrained')
    probe, back, harm = figure.subplots(3, sharex=True)
    probe.bar(at, [place.domain_probe for place in places], color='0.6')
    probe.axhline(50, color='0.3', lw=0.8, ls=':')
    probe.set(ylim=(0, 105), ylabel='%', title='Domain told by a linear probe of channel statistics (dotted: chance)')
    unit = 'nats of entropy' if diagnosis.measure == 'entropy' else f'points of {diagnosis.measure}'
    bars = (
        ('matched', -0.2, 'C0', [p.matched for p in places]),
        ('per image', 0.2, 'C1', [p.per_image for p in places]),
    )
    for label, shift, colour, values in bars:
        _bars(back, [i + shift for i in at], values, 0.4, colour, label)
    back.axhline(diagnosis.drop.value, color='C3', lw=1, ls='--', label='the drop')
    back.set(ylabel=unit, title='Regained on the target with channel statistics of the source')
    back.legend(ncols=3, frameon=False)
    _bars(harm, list(at), [place.harm for place in places], 0.6, 'C3', None)
    harm.set(ylabel=unit, title='Lost on the source with channel statistics of the target')
    harm.set_xticks(at, [place.site for place in places], rotation=40, ha='right')
    for axes in (probe, back, harm):
        axes.title.set_fontsize(10)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in (back, harm):
        axes.axhline(0, color='0.3', lw=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=130)
    return buffer.getvalue()


def _bars(axes: object, at: list[float], values: list[Value], width: float, colour: str, label: str | None) -> None:
    heights, errors = [value.value for value in values], [value.error for value in values]
    axes.bar(at, heights, width, yerr=errors, capsize=2, color=colour, label=label)  # type: ignore[attr-defined]
