"""A self-contained page of HTML, with tables that sort."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd }
th { cursor: pointer; text-align: left; background: #f4f4f4; position: sticky; top: 0 } td.n { text-align: right }
td.n[title] { cursor: help } th::after { content: ' \\2195'; color: #aaa } .note { color: #555; max-width: 60rem }
"""
_SORT = """
for (const head of document.querySelectorAll('th')) head.addEventListener('click', () => {
  const body = head.closest('table').tBodies[0], column = head.cellIndex;
  const text = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const value = row => isNaN(text(row)) ? text(row) : +text(row);
  const rows = [...body.rows], down = head.dataset.down !== '1';
  rows.sort((a, b) => { const x = value(a), y = value(b); return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1) });
  head.dataset.down = down ? '1' : '0'; body.append(...rows);
});
"""


def page(title: str, *parts: str) -> str:
    """The page made of some parts."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{"".join(parts)}<script>{_SORT}</script></html>\n'
    )


def note(text: str) -> str:
    """A paragraph in grey."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with a head and rows of cells."""
    head = ''.join(f'<th>{html.escape(name)}</th>' for name in heads)
    body = ''.join(f'<tr>{"".join(row)}</tr>' for row in rows)
    return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def cell(text: object) -> str:
    """A cell of text."""
    return f'<td>{html.escape(str(text))}</td>'


def number(value: float | None, hint: str = '', digits: int = 2) -> str:
    """A cell that sorts by its value, and shows `hint` under the pointer; empty without a value."""
    if value is None:
        return '<td class="n"></td>'
    title = f' title="{html.escape(hint)}"' if hint else ''
    return f'<td class="n"{title} data-value="{value}">{value:.{digits}f}</td>'


def picture(name: str, png: bytes) -> str:
    """An image within the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{data}" style="max-width:100%">'


def details(summary: str, text: str) -> str:
    """Text that opens when its summary is clicked."""
    return f'<details><summary>{html.escape(summary)}</summary><pre>{html.escape(text)}</pre></details>'
