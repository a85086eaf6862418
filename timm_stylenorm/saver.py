"""timm's `CheckpointSaver` as its scripts run in `launch`: files are whole or absent, one run has the folder.

timm removes a file before the next one takes its name, so that a kill in between leaves none; writes under one
temporary name, which two runs share and `find_recovery` may take for a checkpoint; and copies in place without links.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .files import atomic_write, claimed
from .host import safety_patches
from .patches import patched
from .workers import ending_with_parent

if TYPE_CHECKING:
    from timm.utils import CheckpointSaver


def claiming(create: Callable[..., None], claims: ExitStack) -> Callable[..., None]:
    """`CheckpointSaver.__init__`, which claims the folder.

    Args:
        create: timm's own.
        claims: Holds the claim.
    """

    @functools.wraps(create)
    def init(self: CheckpointSaver, *args: object, **kwargs: object) -> None:
        create(self, *args, **kwargs)
        for folder in dict.fromkeys(filter(None, (self.checkpoint_dir, self.recovery_dir))):
            claims.enter_context(claimed(folder, 'training', 'choose another --output or --experiment'))

    return init


def saving_whole(save: Callable[..., None]) -> Callable[..., None]:
    """`CheckpointSaver._save`; where the disk is full, the error says so, which torch's own writer does not."""

    @functools.wraps(save)
    def run(self: object, save_path: str, *args: object, **kwargs: object) -> None:
        content = io.BytesIO()
        save(self, content, *args, **kwargs)
        with atomic_write(Path(save_path)) as part:
            part.write_bytes(content.getbuffer())

    return run


def replace(saver: object, src: str, dst: str) -> None:
    """Stands in for `CheckpointSaver._replace`: `dst` is there all the time."""
    os.replace(src, dst)


def duplicate(saver: object, src: str, dst: str) -> None:
    """Stands in for `CheckpointSaver._duplicate`: a hard link, or a copy where there are none."""
    with atomic_write(Path(dst)) as part:
        try:
            os.link(src, part)
        except (OSError, NotImplementedError):
            shutil.copyfile(src, part)


@contextmanager
def safe_saving() -> Iterator[None]:
    """Within, savers are as this module says, and workers of timm's loaders end with their parent."""
    with ExitStack() as claims:
        new: dict[str, Callable[..., object]] = {
            '__init__': functools.partial(claiming, claims=claims),
            '_save': saving_whole,
            '_replace': lambda own: replace,
            '_duplicate': lambda own: duplicate,
            '_worker_init': ending_with_parent,
        }
        claims.enter_context(patched({patch: new[name] for name, patch in safety_patches().items()}))
        yield
