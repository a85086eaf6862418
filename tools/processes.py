"""Processes that tools start: they end with the tool, also when that is killed.

A process that is killed can tell nobody. So what it has started watches it: a worker as in timm_stylenorm/workers.py,
another tool by the id of its parent, which changes when the parent ends.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from disk import standalone

PARENT = 'STYLENORM_ENDS_WITH'  # in the environment of a tool: the process with which it is to end

workers = standalone('workers')


def pool(count: int) -> ProcessPoolExecutor:
    """An executor whose processes end with this one.

    OpenCV has one thread from now on: a forked process waits for ever where it counts on, or stops, threads of its
    parent, which it has not.
    """
    if 'cv2' in sys.modules:
        sys.modules['cv2'].setNumThreads(1)
    return ProcessPoolExecutor(count, initializer=workers.end_with_parent)


def obey() -> None:
    """Lets this process end with the one that started it, where that is torchrun, or asks for it as `start` does."""
    pid = os.environ.pop(PARENT, None)
    if pid is None:
        workers.end_with_torchrun()
    else:
        workers.end_with(int(pid))


def start(line: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts one of our tools, which ends with this process; arguments are those of `Popen`, `env` adds to ours."""
    environment = {**os.environ, **options.pop('env', {}), PARENT: str(os.getpid())}
    return subprocess.Popen(line, env=environment, **options)


def run(line: Sequence[str], **options: Any) -> int:
    """`start`, and its exit status."""
    with start(line, **options) as process:
        return process.wait()
