"""Worker processes that end with their parent, also when that is killed and can tell them nothing.

Only the standard library is imported, as in `files`. Workers of `concurrent.futures` do not look after their parent;
those of torch's data loaders do so only between two batches, and never where one waits for room in a full pipe.
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
    """Ends this process, whatever it does, when a call has returned, which is made in a thread."""

    def run() -> None:
        wait()
        os._exit(KILLED)

    threading.Thread(target=run, daemon=True).start()


def end_with_parent(worker: object = None) -> None:
    """Lets a process of `multiprocessing` end within a second of its parent; does nothing in another process.

    To be called in the worker, as `initializer` of a pool or `worker_init_fn` of a data loader.

    Args:
        worker: Its number, of no use here.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    child_of_it = os.getppid() == parent.pid  # not so where a server forks

    def wait() -> None:
        # the handle alone would wait for all processes that were forked later and do not watch
        while parent.is_alive() and (not child_of_it or os.getppid() == parent.pid):
            parent.join(1)

    end_after(wait)


def end_with(pid: int) -> None:
    """Ends this process within a second of its parent, of this id. On Windows, where such an id stays, it goes on."""

    def wait() -> None:
        while os.getppid() == pid:
            time.sleep(0.5)

    end_after(wait)


def end_with_torchrun() -> None:
    """Ends this process, if torchrun has started it, with that: the ranks would train on without it."""
    if 'TORCHELASTIC_RUN_ID' in os.environ:
        end_with(os.getppid())


def ending_with_parent(init: Callable[..., None]) -> Callable[..., None]:
    """A `worker_init_fn` that does the same first."""

    @functools.wraps(init)
    def run(*args: object, **kwargs: object) -> None:
        end_with_parent()
        init(*args, **kwargs)

    return run
