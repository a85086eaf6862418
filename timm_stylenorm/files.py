"""Files of a run: each is whole or absent, write errors name the file, and a folder belongs to one run at a time.

Only the standard library is imported, so that data converters can load this file without torch.
"""

from __future__ import annotations

import errno
import functools
import json
import math
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
PATIENCE = 3.0  # seconds that the processes of a killed run may take to end
FULL = {errno.ENOSPC, errno.EDQUOT}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # from a file system without locks
_HELD: dict[tuple[int, Path], int] = {}  # what this process has claimed: (process, lock file) -> handle


class InUse(FileExistsError):
    """A folder belongs to another run."""


@functools.cache
def _machine() -> str:
    """Where a process id is valid: the host, and on Linux its process namespace (a container has its own)."""
    with suppress(OSError):
        return f'{socket.gethostname()[:40]}-{os.stat("/proc/self/ns/pid").st_ino}'
    return socket.gethostname()[:40]


def _is_gone(pid: int) -> bool:
    """Whether an earlier process of this machine has ended; false if the system cannot tell."""
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
    """Remove the temporary files that killed processes of this machine left in a folder; once per process."""
    for file in folder.glob(f'.*{PART}'):
        owner = re.fullmatch(rf'\..+\.(.*)-(\d+)-[0-9a-f]{{8}}\{PART}', file.name)
        if owner is not None and owner[1] == _machine() and _is_gone(int(owner[2])):
            file.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _room(folder: Path, size: int) -> str:
    """How much room a full disk has for a file of which `size` bytes are already written, for a message."""
    if hasattr(os, 'statvfs'):
        disk = os.statvfs(folder)
        if disk.f_files and not disk.f_favail:
            return '; the disk takes no more files'
    return f'; the disk has room for {(shutil.disk_usage(folder).free + size) / 1e6:.1f} MB of it'


def json_text(content: object) -> str:
    """JSON on several lines, with null for numbers that are not finite, which JSON lacks."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + '\n'


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@contextmanager
def naming(file: Path, part: Path | None = None) -> Iterator[None]:
    """Within, a system error that names no file, or the temporary `part`, is raised again and names `file`.

    Raises:
        OSError: The same errno; if the disk is full, the message says how much room there was.
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
    """A temporary file in the same folder, which is renamed at the end: no interrupted run leaves half a file.

    The name of the temporary file is hidden and unique, and ends in `.part`. The file is removed after an error; the
    files of killed processes are removed by the next process that writes into the folder.

    Raises:
        OSError: Writing failed, for instance since the disk is full; it names `file`, which stays as it was.
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
    """Whether a folder holds only claims, unfinished files of killed processes, and files of file managers."""
    names = [path.name for path in folder.iterdir()]
    ours = (name == LOCK or (name.startswith('.') and name.endswith(PART)) for name in names)
    return all(own or name in OF_FILE_MANAGERS or name.startswith('._') for own, name in zip(ours, names, strict=True))


def _try_lock(handle: int) -> bool | None:
    """Lock a file until this process ends; whether that succeeded, None if the file system has no locks.

    The lock belongs to this process alone: workers that it forks do not keep it.
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
    """What the run that has claimed a folder wrote about itself; {} if it could not write."""
    try:
        said = json.loads(lock.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) and isinstance(said.get('pid'), int) else {}


def _is_mine(lock: Path, handle: int) -> bool:
    """Whether this process now has claimed a lock file; another file may have taken its name in the meantime."""
    has = _try_lock(handle)
    if has is None:
        said = _holder(lock)
        has = not said or (said.get('machine') == _machine() and _is_gone(said['pid']))
    try:
        return has and os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False


def _take(lock: Path, patience: float) -> int | None:
    """Claim a lock file, and return its handle; None if another process keeps it for longer than `patience`."""
    until = time.monotonic() + patience
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # if the previous owner has just removed the folder
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
    with suppress(OSError):  # the claim is valid on a full disk, too
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(said).encode())
    return handle


@contextmanager
def claimed(folder: str | os.PathLike, what: str, cure: str = '', patience: float | None = None) -> Iterator[None]:
    """Within, a folder belongs to this process: another process that claims it is refused.

    The claim ends with the process, even if the process is killed. A process that the owner has started shares the
    claim. Between machines, the claim is valid if their file system has locks; without locks, the content of the file
    `LOCK` decides.

    Args:
        folder: Created if missing, and in that case removed at the end if it is empty.
        what: What runs, in messages: 'training'.
        cure: What the user can do instead of waiting, in messages: 'choose another --work-dir'.
        patience: Seconds to wait for another process to end; by default the time that workers of a killed run may take.

    Raises:
        InUse: Another process has claimed it; the message says which, and what to do.
    """
    place = Path(os.path.realpath(folder))
    key = os.getpid(), place / LOCK
    if key in _HELD:  # opening and closing the lock file again would end the claim
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
    if fcntl is None:  # Windows cannot remove an open file
        os.close(handle)
    with suppress(OSError):
        lock.unlink()
    if fcntl is not None:  # a process that opens it before this line sees that it is gone
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
