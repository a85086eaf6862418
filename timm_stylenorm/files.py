"""Files of a run: each is whole or absent, an error in writing names it, and a folder belongs to one run at a time.

Only the standard library is imported, so that converters of data can load this file without torch.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ['LOCK', 'PART', 'InUse', 'atomic_write', 'claimed', 'is_empty', 'naming']

OF_FILE_MANAGERS = ('.DS_Store', '.directory', 'Thumbs.db', 'desktop.ini')
PART = '.part'  # how the names of temporary files end
LOCK = '.stylenorm.lock'  # in a folder that a run has claimed
PATIENCE = 3.0  # seconds in which the processes of a run that was killed may end
FULL = {errno.ENOSPC, errno.EDQUOT}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of a file system
_HELD: dict[tuple[int, Path], int] = {}  # what this process has claimed: (process, lock file) -> handle


class InUse(FileExistsError):
    """A folder belongs to another run."""


@functools.cache
def _machine() -> str:
    """Where process ids count: the host, and on Linux its namespace of processes (a container has its own)."""
    with suppress(OSError):
        return f'{socket.gethostname()[:40]}-{os.stat("/proc/self/ns/pid").st_ino}'
    return socket.gethostname()[:40]


def _is_gone(pid: int) -> bool:
    """Whether an earlier process of this machine has ended; where the system cannot tell, it has not."""
    if os.name != 'posix':
        return False
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


@functools.cache
def _clear(folder: Path) -> None:
    """Removes temporary files that killed processes of this machine left in a folder; once per process."""
    for file in folder.glob(f'.*{PART}'):
        owner = re.fullmatch(rf'\..+\.(.*)-(\d+)-[0-9a-f]{{8}}\{PART}', file.name)
        if owner is not None and owner[1] == _machine() and _is_gone(int(owner[2])):
            file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _room(folder: Path, size: int) -> str:
    """What a full disk has for a file of which `size` bytes are written."""
    if hasattr(os, 'statvfs'):
        disk = os.statvfs(folder)
        if disk.f_files and not disk.f_favail:
            return '; the disk takes no more files'
    return f'; the disk has room for {(shutil.disk_usage(folder).free + size) / 1e6:.1f} MB of it'


@contextmanager
def naming(file: Path, part: Path | None = None) -> Iterator[None]:
    """Within, an error of the system that names no file, or the temporary `part`, comes to name `file`.

    Raises:
        OSError: of the same number; where the disk is full, it says how much room there was.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        room = ''
        if error.errno in FULL:
            with suppress(OSError):
                room = _room(file.parent, part.stat().st_size if part is not None and part.exists() else 0)
        raise type(error)(error.errno, f'{error.strerror} while writing{room}', str(file)) from error


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A temporary file in the same folder, which takes the name at the end: no interrupted run leaves half of it.

    The name of the temporary file is hidden and unique, and ends in `.part`. After an error it is removed; those of
    processes that were killed are removed by the next one that writes into the folder.

    Raises:
        OSError: naming `file`, which stays as it was, for instance when the disk is full.
    """
    target = Path(os.path.realpath(file))
    part = target.with_name(f'.{target.name[:120]}.{_machine()}-{os.getpid()}-{os.urandom(4).hex()}{PART}')
    _clear(target.parent)
    try:
        with naming(Path(file), part):
            yield part
            _sync(part)
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    if os.name == 'posix':
        with suppress(OSError):  # not every file system can
            _sync(target.parent)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, but for claims, unfinished files of killed processes and file managers' own."""
    names = [path.name for path in folder.iterdir()]
    ours = (name == LOCK or (name.startswith('.') and name.endswith(PART)) for name in names)
    return all(own or name in OF_FILE_MANAGERS or name.startswith('._') for own, name in zip(ours, names, strict=True))


def _try_lock(handle: int) -> bool | None:
    """Whether this process now has a file to itself, until it ends; None where the file system has no locks.

    The lock is the process's own: workers that it forks do not keep it.
    """
    if fcntl is None:
        return None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno in NO_LOCKS:
            return None
        raise
    return True


def _holder(lock: Path) -> dict[str, Any]:
    """What the run that has claimed a folder wrote about itself; {} where it could not."""
    try:
        said = json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) and isinstance(said.get('pid'), int) else {}


def _is_mine(lock: Path, handle: int) -> bool:
    """Whether a lock file is claimed now; its name may have been taken by another one meanwhile."""
    has = _try_lock(handle)
    if has is None:
        said = _holder(lock)
        has = not said or (said.get('machine') == _machine() and _is_gone(said['pid']))
    try:
        return has and os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False


def _take(lock: Path, patience: float) -> int | None:
    """The handle of a lock file that this process has claimed; None where another one has."""
    until = time.monotonic() + patience
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # where the one before has just removed the folder
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            if _is_mine(lock, handle):
                break
            os.close(handle)
        if time.monotonic() > until:
            return None
        time.sleep(0.05)
    said = {'machine': _machine(), 'host': socket.gethostname(), 'pid': os.getpid()}
    said['since'] = time.strftime('%Y-%m-%d %H:%M:%S')
    said['command'] = ' '.join([os.path.basename(sys.argv[0] or 'python'), *sys.argv[1:]])[:500]
    with suppress(OSError):  # it holds on a full disk, too
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(said).encode())
    return handle


@contextmanager
def claimed(folder: str | os.PathLike, what: str, cure: str = '', patience: float | None = None) -> Iterator[None]:
    """Within, a folder belongs to this process: another one that claims it is refused.

    The claim ends with the process, however that ends. A process that the owner has started shares it. Between machines
    it holds as far as their file system has locks; one without any is told by what the file `LOCK` says.

    Args:
        folder: Made if missing, and removed at the end if it is empty then.
        what: What runs, in messages: 'training'.
        cure: What else than waiting there is to do, in messages: 'choose another --work-dir'.
        patience: Seconds to wait for another process to end; by default those that workers of a killed run may take.

    Raises:
        InUse: another process has claimed it; says which, and what to do.
    """
    place = Path(os.path.realpath(folder))
    key = os.getpid(), place / LOCK
    if key in _HELD:  # which must not be opened and closed again: that would end the claim
        yield
        return
    made = [path for path in (place, *place.parents) if not path.exists()]
    said = _holder(key[1])
    if said and said.get('machine') == _machine() and said['pid'] == os.getppid():
        yield
        return
    handle = _take(key[1], PATIENCE if patience is None else patience)
    if handle is None:
        raise InUse(_refusal(folder, key[1], what, cure))
    _HELD[key] = handle
    try:
        yield
    finally:
        _leave(key[1], _HELD.pop(key))
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _leave(lock: Path, handle: int) -> None:
    if fcntl is None:  # Windows removes no file that is open
        os.close(handle)
    with suppress(OSError):
        lock.unlink()
    if fcntl is not None:  # whoever opens it until then sees that it has gone
        os.close(handle)


def _refusal(folder: str | os.PathLike, lock: Path, what: str, cure: str) -> str:
    said = _holder(lock)
    who = f'process {said["pid"]} on {said.get("host", said.get("machine"))}' if said else 'another process'
    who += f' since {said["since"]} ({said.get("command")})' if 'since' in said else ''
    text = f'{folder} is in use by {who}, and two runs of {what} at once would spoil each other. Wait until it ends'
    text += f', or {cure}' if cure else ''
    if not said or said.get('machine') != _machine() or fcntl is None:
        text += f'. If it does not run any more, for instance after a crash of that machine, delete {lock}'
    return text
