"""Processes that tools start: they end with the tool, also when that is killed.

A process that is killed can tell nobody. So what it has started watches it: a worker by `multiprocessing`'s handle of
its parent, another tool by the id of its parent, which changes when the parent ends.
"""

import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

PARENT = 'STYLENORM_ENDS_WITH'  # in the environment of a tool: the process with which it is to end
KILLED = 137  # exit status, as of a process that was killed


def _end_after(wait: Callable[[], object]) -> None:
    """Ends this process, whatever it does, when a call has returned."""

    def run() -> None:
        wait()
        os._exit(KILLED)

    threading.Thread(target=run, daemon=True).start()


def _worker_ends_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        _end_after(parent.join)


def pool(workers: int) -> ProcessPoolExecutor:
    """An executor whose processes end with this one."""
    return ProcessPoolExecutor(workers, initializer=_worker_ends_with_parent)


def end_with_parent(pid: int) -> None:
    """Ends this process within a second of its parent. On Windows, where the id of a parent stays, it goes on."""

    def wait() -> None:
        while os.getppid() == pid:
            time.sleep(0.5)

    _end_after(wait)


def obey() -> None:
    """Ends with the process that started this one, where that has asked for it, as `start` does and torchrun would."""
    pid = os.environ.pop(PARENT, None)
    if pid is not None:
        end_with_parent(int(pid))
    elif 'TORCHELASTIC_RUN_ID' in os.environ:  # torchrun's own ranks would train on
        end_with_parent(os.getppid())


def start(line: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts one of our tools, which ends with this process; arguments are those of `Popen`, `env` adds to ours."""
    environment = {**os.environ, **options.pop('env', {}), PARENT: str(os.getpid())}
    return subprocess.Popen(line, env=environment, **options)


def run(line: Sequence[str], **options: Any) -> int:
    """`start`, and its exit status."""
    with start(line, **options) as process:
        return process.wait()
