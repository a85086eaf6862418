"""`python -m timm_stylenorm` prints the method table and the versions that matter in a bug report."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__
from .files import atomic_write
from .methods import ROWS

PACKAGES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmsegmentation', 'numpy')


def method_table() -> str:
    """The table of methods in Markdown."""
    rows = ['| method | what it does | sites | arguments and defaults | paper |', '|---|---|---|---|---|']
    for name, method in ROWS.items():
        sites = ', '.join(f'`{site}`' for site in method.sites)
        defaults = ', '.join(f'`{k}={v!r}`' for k, v in method.defaults.items())
        rows.append(f'| `{name}` | {method.summary} | {sites} | {defaults} | {method.paper} |')
    return '\n'.join(rows)


def environment() -> str:
    """One line for each package, also where a continuation under another name provides it."""
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
    """Print both, or write the table between the marks of a README."""
    parser = argparse.ArgumentParser(prog='python -m timm_stylenorm', description=__doc__)
    parser.add_argument('--update-readme', metavar='FILE', type=Path, help='write the method table into FILE')
    path = parser.parse_args(argv).update_readme
    if path is None:
        print(f'{method_table()}\n\n{environment()}')
        return
    before, start, rest = path.read_text().partition('<!-- methods -->\n')
    _, end, after = rest.partition('<!-- /methods -->')
    if not end:
        raise SystemExit(f'{path} has no lines <!-- methods --> and <!-- /methods -->')
    with atomic_write(path) as part:
        part.write_text(f'{before}{start}{method_table()}\n{end}{after}')


if __name__ == '__main__':
    main()
