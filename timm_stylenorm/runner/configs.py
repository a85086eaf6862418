"""Files: where the shipped configs are, in the source tree or inside the wheel, and how to write one whole."""

import functools
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import unknown

_PACKAGES = Path(__file__).resolve().parent.parent
_MACHINE = socket.gethostname()[:40]


def config_root() -> Path:
    """The folder `configs/`.

    Raises:
        FileNotFoundError: neither the source tree nor the installed package holds it.
    """
    places = [_PACKAGES / 'configs', _PACKAGES / 'mmseg_stylenorm' / '.mim' / 'configs']
    for place in places:
        if (place / '_base_').is_dir():
            return place
    raise FileNotFoundError(f'no configs: looked in {", ".join(map(str, places))}; reinstall stylenorm')


def list_configs() -> list[str]:
    """Names of the shipped configs, relative to `config_root()`."""
    root = config_root()
    names: Iterable[Path] = (path.relative_to(root) for path in root.rglob('*.py'))
    return sorted(str(name) for name in names if name.parts[0] != '_base_')


def find_config(name: str) -> str:
    """A config by path, or by its name below `configs/` (`segmentation/x.py`, `configs/segmentation/x.py`, `x`).

    Raises:
        FileNotFoundError: naming the nearest shipped configs.
    """
    if Path(name).is_file():
        return name
    known = list_configs()
    wanted = name.removeprefix('configs/')
    wanted = wanted if wanted.endswith('.py') else f'{wanted}.py'
    hits = [config for config in known if config == wanted or Path(config).name == wanted]
    if len(hits) == 1:
        return str(config_root() / hits[0])
    raise FileNotFoundError(unknown('config', wanted, known))


@functools.cache
def _clear(folder: Path) -> None:
    """Removes temporary files of `whole` that killed processes of this machine left in a folder; once per process."""
    for file in folder.glob('.*.part') if os.name == 'posix' else ():
        owner = re.fullmatch(r'\..+\.(.*)-(\d+)-[0-9a-f]{8}\.part', file.name)
        if owner is None or owner[1] != _MACHINE:
            continue
        try:
            if int(owner[2]) != os.getpid():  # else of an earlier process with this number
                os.kill(int(owner[2]), 0)
                continue
        except PermissionError:
            continue
        except ProcessLookupError:
            pass
        file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A temporary file in the same folder, which takes the name at the end: no interrupted run leaves half of it.

    The name of the temporary file is unique and ends in `.part`. After an error it is removed; those of processes that
    were killed are removed by the next one that writes into the folder.

    Raises:
        OSError: naming `file`, which stays as it was, for instance when the disk is full.
    """
    target = Path(os.path.realpath(file))
    part = target.with_name(f'.{target.name[:150]}.{_MACHINE}-{os.getpid()}-{os.urandom(4).hex()}.part')
    _clear(target.parent)
    try:
        yield part
        _sync(part)
        os.replace(part, target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise type(error)(error.errno, f'{error.strerror} while writing', str(file)) from error
    finally:
        part.unlink(missing_ok=True)
    if os.name == 'posix':
        with suppress(OSError):  # not every file system can
            _sync(target.parent)
