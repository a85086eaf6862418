"""What is installed besides torch: hosts are found by import, and errors about missing or doubled ones name a cure."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

EXTRAS = {  # package -> the extra of setup.py that brings it
    **dict.fromkeys(('timm', 'torchvision'), 'timm'),
    **dict.fromkeys(('mmengine', 'mmcv', 'mmseg', 'matplotlib'), 'mmseg'),
    'mmdet': 'mmdet',
    'mmpretrain': 'mmpretrain',
    'cityscapesscripts': 'cityscapes',
    'imagecorruptions': 'corruptions',
    'foolbox': 'evaluate',
    **dict.fromkeys(('pytorch_grad_cam', 'sklearn', 'ttach'), 'explain'),
}
OPENMMLAB = {
    'mmengine': 'mmengine',
    'mmcv': 'mmcv',
    'mmseg': 'mmsegmentation',
    'mmdet': 'mmdet',
    'mmpretrain': 'mmpretrain',
}
LEAST = {'timm': '1.0.27'}  # as in setup.py


class Absent(nn.Module):
    """Stands for a class of a host that is not installed: nothing is an instance of it."""


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # what has this name is not a package
        return package in sys.modules and sys.modules[package] is not None


def optional(name: str) -> Any:
    """The object that `package.module:name` names; `Absent` if the package is not installed."""
    return pkgutil.resolve_name(name) if is_installed(name.partition('.')[0].partition(':')[0]) else Absent


def cure(package: str) -> str:
    """The command that installs a package."""
    extra = f"pip install 'stylenorm[{EXTRAS[package]}]'"
    if package not in OPENMMLAB:
        return extra
    return f"{extra} for the maintained fork, or OpenMMLab's own, `mim install {OPENMMLAB[package]}`"


@contextmanager
def needing(who: str) -> Iterator[None]:
    """A context for imports from hosts, in which the error for a missing host says how to install it.

    Raises:
        ModuleNotFoundError: A host is missing; the message says who needs it (`who`), and which command installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name == 'mmcv._ext':
            raise ModuleNotFoundError(
                f'{who}: this mmcv was built without its compiled ops, which this mmseg imports: `mim install mmcv` '
                'finds a wheel with them for some versions of torch (2.1.0 for torch 2.1)',
                name=error.name,
            ) from error
        if error.name not in EXTRAS or not str(error).startswith('No module named'):
            raise
        text = f'{who} needs {error.name}, which is not installed: {cure(error.name)}'
        raise ModuleNotFoundError(text, name=error.name) from error


def require(package: str, who: str) -> None:
    """Raise the error of `needing` if a package that is imported later is not installed."""
    with needing(who):
        if not is_installed(package):
            raise ModuleNotFoundError(f'No module named {package!r}', name=package)


def check_version(package: str, version: str) -> None:
    """Raise an ImportError if a host is older than the oldest supported version."""
    own, least = (tuple(map(int, re.findall(r'\d+', text)[:3])) for text in (version, LEAST[package]))
    if own < least:
        raise ImportError(
            f'stylenorm needs {package} >= {LEAST[package]}, and {version} is installed: '
            f"pip install '{package}>={LEAST[package]}'",
            name=package,
        )


@functools.cache
def owners(package: str) -> dict[str, str]:
    """The installed distributions that contain the folder of a package -> their versions."""
    found = {}
    for distribution in importlib.metadata.distributions():
        tops = distribution.read_text('top_level.txt')
        listed = (distribution.read_text('RECORD') or '') if tops is None else ''
        if package in (tops or '').split() or f'\n{package}/__init__.py,' in f'\n{listed}':
            found[re.sub('[-_.]+', '-', distribution.metadata['Name']).lower()] = distribution.version
    return dict(sorted(found.items()))


def check_owners(*packages: str) -> None:
    """Refuse a package whose folder belongs to two distributions, one of which has overwritten the other.

    Raises:
        ImportError: There are two; the message names them, and says what to uninstall and install.
    """
    for package in packages:
        found = owners(package)
        if len(found) > 1:
            shown = ' and '.join(f'{name} {version}' for name, version in found.items())
            again = ' or '.join(
                f'`pip install --no-deps {name}=={version}`{_what(name)}' for name, version in found.items()
            )
            raise ImportError(
                f'the folder {package}/ belongs to two distributions, {shown}: the one that was installed last has '
                f'written over files of the other. Remove both, `pip uninstall --yes {" ".join(found)}`, and install '
                f'one again: {again}',
                name=package,
            )


def _what(distribution: str) -> str:
    if distribution.startswith('onedl-'):
        return ', the maintained fork' + (' (without compiled ops)' if distribution == 'onedl-mmcv' else '')
    return ', without compiled ops' if distribution == 'mmcv-lite' else ''
