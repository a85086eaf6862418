"""Processes and disks for tests: Python beside this process, killed, its children watched; a disk of two megabytes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / 'tools'


def python(*arguments, cwd=None, **environment):
    """Starts Python in a session of its own, with this source tree and its tools; prints are read by `stdout`."""
    path = os.pathsep.join([str(ROOT), str(TOOLS), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')])
    env = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1', **environment}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, env=env, start_new_session=True, **pipes)


def wait_for(process, word):
    """Reads until a process has printed a word; returns what it has printed."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return ''.join(lines)
    raise AssertionError(''.join(lines))


def kill(process):
    """SIGKILL, of this process alone."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def alive(pid):
    """Whether a process runs; one that has ended and that nobody has asked for is not alive."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """The processes that a process has started, and those that these have."""
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with contextlib.suppress(OSError):
            found += [int(child) for child in task.read_text().split()]
    return found + [inner for child in found for inner in children(child)]


def end_within(pids, seconds):
    """Those of some processes that run on after so many seconds; ends them."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(map(alive, pids)):
        time.sleep(0.05)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left


@contextlib.contextmanager
def small_disk(folder, size='2m'):
    """A file system of its own for a folder; the test is skipped where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)]
    if sys.platform != 'linux' or subprocess.run(command, capture_output=True).returncode:
        pytest.skip('only root may mount a small disk')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)
