"""Worker processes that end with their parent, even if the parent is killed and cannot notify them.

Only the standard library is imported, as in `files`. Workers of `concurrent.futures` do not check whether their parent
runs; workers of torch's data loaders check only between two batches, and never while they wait for room in a full pipe.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable

__all__ = ['KILLED', 'end_after', 'end_with', 'end_with_parent', 'end_with_torchrun', 'ending_with_parent']

KILLED = 137  # exit status, as of a process that was killed


def end_after(wait: Callable[[], object]) -> None:
    """Call a function in a thread, and end this process, whatever it is doing, when the function returns."""

    def run() -> None:
        wait()
        os._exit(KILLED)

    threading.Thread(target=run, daemon=True).start()


def end_with_parent(worker: object = None) -> None:
    """Make a process of `multiprocessing` end within a second after its parent; do nothing in any other process.

    Call it in the worker, as `initializer` of a pool or `worker_init_fn` of a data loader.

    Args:
        worker: The worker's number, which is not used.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    child_of_it = os.getppid() == parent.pid  # not so if a fork server has forked it

    def wait() -> None:
        # join alone would also wait for processes that were forked later and do not watch their parent
        while parent.is_alive() and (not child_of_it or os.getppid() == parent.pid):
            parent.join(1)

    end_after(wait)


def end_with(pid: int) -> None:
    """End this process within a second after its parent, given the parent's id; on Windows it goes on."""

    def wait() -> None:
        while os.getppid() == pid:
            time.sleep(0.5)

    end_after(wait)


def end_with_torchrun() -> None:
    """End this process when torchrun ends, if torchrun has started it: otherwise the ranks would train on."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with(os.getppid())


def ending_with_parent(init: Callable[..., None]) -> Callable[..., None]:
    """A `worker_init_fn` that calls `end_with_parent` first, and then `init`."""

    @functools.wraps(init)
    def run(*args: object, **kwargs: object) -> None:
        end_with_parent()
        init(*args, **kwargs)

    return run
