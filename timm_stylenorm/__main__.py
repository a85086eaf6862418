"""`python -m timm_stylenorm` prints the method table and the versions that matter in a bug report."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__
from .files import atomic_write
from .layers.companions import COMPANIONS
from .methods import ROWS, Kind

PACKAGES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmsegmentation', 'numpy')


def method_table() -> str:
    """The table of methods in Markdown."""
    rows = ['| method | what it does | sites | arguments and defaults | paper |', '|---|---|---|---|---|']
    for name, method in ROWS.items():
        sites = ', '.join(f'`{site}`' for site in method.sites)
        defaults = ', '.join(f'`{k}={v!r}`' for k, v in method.defaults.items())
        rows.append(f'| `{name}` | {method.summary} | {sites} | {defaults} | {method.paper} |')
    return '\n'.join(rows)


def kind_table() -> str:
    """The table of kinds of methods in Markdown; methods that may need more than their layer are marked."""
    rows = ['| what they do | methods (* may need more than its layer) | what is left in evaluation |', '|---|---|---|']
    for kind in Kind:
        names = [f'`{name}`{"*" * bool(row.companions)}' for name, row in ROWS.items() if row.kind is kind]
        if names:
            rows.append(f'| {kind.does} | {", ".join(names)} | {kind.in_evaluation} |')
    rows.append('| batch norm statistics of the target, without training | AdaBN | the plain network |')
    return '\n'.join(rows)


def companion_table() -> str:
    """The table in Markdown of what some methods need besides their layers."""
    rows = ['| methods | without it | cure |', '|---|---|---|']
    for key, companion in COMPANIONS.items():
        names = ', '.join(f'`{name}`' for name, row in ROWS.items() if key in row.companions)
        if names:
            rows.append(f'| {names} | {companion.effect} | {companion.cure} |')
    return '\n'.join(rows)


BLOCKS: dict[str, Callable[[], str]] = {'methods': method_table, 'kinds': kind_table, 'companions': companion_table}


def updated(text: str) -> str:
    """A page of Markdown with its tables regenerated between marks such as `<!-- kinds -->` and `<!-- /kinds -->`."""
    for name, table in BLOCKS.items():
        before, start, rest = text.partition(f'<!-- {name} -->\n')
        _, end, after = rest.partition(f'<!-- /{name} -->')
        if end:
            text = f'{before}{start}{table()}\n{end}{after}'
    return text


def environment() -> str:
    """One line each for stylenorm, Python and every package; a fork named `onedl-...` may provide the package."""
    lines = [f'stylenorm {__version__}', f'python {platform.python_version()} on {platform.platform()}']
    for package in PACKAGES:
        for name in (package, f'onedl-{package}'):
            try:
                lines.append(f'{name} {version(name)}')
                break
            except PackageNotFoundError:
                continue
        else:
            lines.append(f'{package} not installed')
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the method table and the environment, or regenerate the tables of the given pages."""
    parser = argparse.ArgumentParser(prog='python -m timm_stylenorm', description=__doc__)
    parser.add_argument('--update', metavar='FILE', nargs='+', type=Path, help='write the tables of these pages anew')
    files = parser.parse_args(argv).update
    if files is None:
        print(f'{method_table()}\n\n{environment()}')
        return
    for file in files:
        with atomic_write(file) as part:
            part.write_text(updated(file.read_text()))


if __name__ == '__main__':
    main()
