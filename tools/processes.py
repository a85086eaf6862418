"""Processes that tools start: they end with the tool, also when that is killed.

A process that is killed can tell nobody. So what it has started watches it: a worker as in timm_stylenorm/workers.py,
another tool by the id of its parent, which changes when the parent ends.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from disk import standalone

PARENT = 'STYLENORM_ENDS_WITH'  # in the environment of a tool: the process with which it is to end

workers = standalone('workers')


def pool(count: int) -> ProcessPoolExecutor:
    """An executor whose processes end with this one."""
    return ProcessPoolExecutor(count, initializer=workers.end_with_parent)


def end_with(pid: int) -> None:
    """Ends this process within a second of its parent. On Windows, where the id of a parent stays, it goes on."""

    def wait() -> None:
        while os.getppid() == pid:
            time.sleep(0.5)

    workers.end_after(wait)


def obey() -> None:
    """Ends with the process that started this one, where that has asked for it, as `start` does and torchrun would."""
    pid = os.environ.pop(PARENT, None)
    if pid is not None:
        end_with(int(pid))
    elif 'TORCHELASTIC_RUN_ID' in os.environ:  # torchrun's own ranks would train on
        end_with(os.getppid())


def start(line: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts one of our tools, which ends with this process; arguments are those of `Popen`, `env` adds to ours."""
    environment = {**os.environ, **options.pop('env', {}), PARENT: str(os.getpid())}
    return subprocess.Popen(line, env=environment, **options)


def run(line: Sequence[str], **options: Any) -> int:
    """`start`, and its exit status."""
    with start(line, **options) as process:
        return process.wait()
