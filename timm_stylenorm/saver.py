"""timm's `CheckpointSaver` in scripts that `launch` runs: files are whole or absent, one run owns the folder.

timm itself removes a file before the next one takes its name, so that a kill in between leaves none. It writes under
one temporary name, which two runs share and `find_recovery` may take for a checkpoint, and copies in place if there
are no hard links.
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
    """`CheckpointSaver.__init__`, which also claims the saver's folders.

    Args:
        create: timm's own `__init__`.
        claims: The stack that holds the claims.
    """

    @functools.wraps(create)
    def init(self: CheckpointSaver, *args: object, **kwargs: object) -> None:
        create(self, *args, **kwargs)
        for folder in dict.fromkeys(filter(None, (self.checkpoint_dir, self.recovery_dir))):
            claims.enter_context(claimed(folder, 'training', 'choose another --output or --experiment'))

    return init


def saving_whole(save: Callable[..., None]) -> Callable[..., None]:
    """`CheckpointSaver._save`, which writes whole files, and says if the disk is full, as torch's writer does not."""

    @functools.wraps(save)
    def run(self: object, save_path: str, *args: object, **kwargs: object) -> None:
        content = io.BytesIO()
        save(self, content, *args, **kwargs)
        with atomic_write(Path(save_path)) as part:
            part.write_bytes(content.getbuffer())

    return run


def replace(saver: object, src: str, dst: str) -> None:
    """Stands in for `CheckpointSaver._replace`: `dst` exists all the time."""
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
    """Within, savers behave as this module says, and workers of timm's data loaders end with their parent."""
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
