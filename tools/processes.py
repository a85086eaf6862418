"""Processes that tools start and that end with the tool, even if the tool is killed.

A killed process cannot notify others. Therefore the processes that it has started watch it: a worker as in
timm_stylenorm/workers.py, another tool by the id of its parent, which changes when the parent ends.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from disk import standalone

PARENT = 'STYLENORM_ENDS_WITH'  # in the environment of a tool: the id of the process with which it must end

workers = standalone('workers')


def pool(count: int) -> ProcessPoolExecutor:
    """An executor whose processes end with this one.

    OpenCV uses one thread from now on: a forked process would wait forever if it used or stopped its parent's threads,
    which do not exist in it.
    """
    if 'cv2' in sys.modules:
        sys.modules['cv2'].setNumThreads(1)
    return ProcessPoolExecutor(count, initializer=workers.end_with_parent)


def obey() -> None:
    """Makes this process end with its parent, if the parent is torchrun or requests it as `start` does."""
    pid = os.environ.pop(PARENT, None)
    if pid is None:
        workers.end_with_torchrun()
    else:
        workers.end_with(int(pid))


def start(line: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts one of our tools, which ends with this process; `options` are those of `Popen`, `env` adds to ours."""
    environment = {**os.environ, **options.pop('env', {}), PARENT: str(os.getpid())}
    return subprocess.Popen(line, env=environment, **options)


def run(line: Sequence[str], **options: Any) -> int:
    """Runs `start`, waits, and returns the exit status."""
    with start(line, **options) as process:
        return process.wait()
