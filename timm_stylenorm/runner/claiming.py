"""A training has its work dir to itself: a second one in the same folder is refused before it changes anything there.

Two trainings would remove each other's checkpoints, and resume from them. The first process claims the folders and
tells the others. The claim ends with that process, so that a killed run can be resumed at once. A Runner writes its
config when it is built, before it is told to train or to test; it writes none into a folder that is claimed.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack, suppress

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner

from ..files import InUse, claimed
from .latest import folders_of
from .saving import is_local

CURE = 'choose another work_dir (--work-dir of the tools)'


def leaving_configs_of_others(dump_config: Callable) -> Callable:
    """`Runner.dump_config`, wrapped so that it writes nothing into a folder in which another process trains."""

    @functools.wraps(dump_config)
    def run(self: Runner) -> None:
        if is_main_process():
            with suppress(InUse), claimed(self.work_dir, 'training', patience=0):
                dump_config(self)

    return run


def claiming(train: Callable) -> Callable:
    """`Runner.train`, wrapped so that it first claims the folders of its checkpoints."""

    @functools.wraps(train)
    def run(self: Runner, *args: object, **kwargs: object) -> object:
        with ExitStack() as claims:
            fault: list[str | None] = [None]
            if is_main_process():
                try:
                    for folder in filter(is_local, dict.fromkeys([self.work_dir, *folders_of(self)])):
                        claims.enter_context(claimed(folder, 'training', CURE))
                except OSError as error:
                    fault[0] = str(error)
            broadcast_object_list(fault)
            if fault[0] is not None:
                raise InUse(fault[0])
            return train(self, *args, **kwargs)

    return run
