"""Saving by mmengine: a file is complete or absent, and old checkpoints stay until the new one is complete.

mmengine removes the old checkpoint, then writes the new one in place. Its code is not copied here; parts of it are
wrapped (`host.PATCHES`):

* `save_checkpoint`, under every name by which mmengine calls it: the content becomes plain data (`plain.to_plain`), and
  local files get their name only when they are complete. Other stores write as before.
* `open`, where `last_checkpoint` and configs are written; `LocalBackend`, which writes pictures and other files.
* The function that adds lines to the scalars of a run: if the disk is full, the error names the file.
* `CheckpointHook`: while it saves, removals wait. The class itself is wrapped, not replaced in the registry, so that
  subclasses and configs that name the class are included.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from mmengine.dist import is_main_process
from mmengine.fileio import BaseStorageBackend, FileClient, LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from ..files import PART, atomic_write, naming
from .host import start_of
from .plain import to_plain

OUTDATED = 'outdated_ckpts'  # in the message hub: files to remove once the checkpoint that holds this is complete


def is_local(filename: str, file_client_args: dict | None = None, backend_args: dict | None = None) -> bool:
    """Whether mmengine would write this file to a file system."""
    if '://' in filename:
        return False
    if file_client_args is not None:
        return isinstance(FileClient.infer_client(file_client_args, filename).client, LocalBackend)
    return isinstance(get_file_backend(filename, backend_args=backend_args), LocalBackend)


def saving_whole(save: Callable) -> Callable:
    @functools.wraps(save)
    def save_checkpoint(
        checkpoint: object, filename: object, file_client_args: dict | None = None, backend_args: dict | None = None
    ) -> None:
        filename, plain = str(filename), to_plain(checkpoint)
        options = {'file_client_args': file_client_args, 'backend_args': backend_args}
        if not is_local(filename, **options):
            save(plain, filename, **options)
            return
        os.makedirs(os.path.dirname(filename) or '.', exist_ok=True)
        with atomic_write(Path(filename)) as part:
            save(plain, str(part), **options)

    return save_checkpoint


@contextmanager
def _written_whole(file: str | os.PathLike, encoding: str | None) -> Iterator[IO]:
    with atomic_write(Path(file)) as part, open(part, 'w', encoding=encoding) as stream:
        yield stream


def open_whole(
    file: str | os.PathLike | int,
    mode: str = 'r',
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> AbstractContextManager[IO]:
    """Stands in for `open` in modules of mmengine that write small files."""
    if mode == 'w' and isinstance(file, str | os.PathLike):
        return _written_whole(file, encoding)
    return open(file, mode, buffering, encoding, errors, newline)


def putting_whole(put: Callable) -> Callable:
    """For `put` and `put_text` of `LocalBackend`."""

    @functools.wraps(put)
    def run(self: object, obj: object, filepath: str | os.PathLike, *args: object, **options: object) -> None:
        if str(filepath).endswith(PART):  # of `saving_whole`
            put(self, obj, filepath, *args, **options)
            return
        os.makedirs(os.path.dirname(filepath) or '.', exist_ok=True)
        with atomic_write(Path(filepath)) as part:
            put(self, obj, part, *args, **options)

    return run


def naming_lines(dump: Callable) -> Callable:
    """For `LocalVisBackend._dump`, which adds a line to a file."""

    @functools.wraps(dump)
    def run(self: object, value_dict: dict, file_path: str, file_format: str) -> None:
        with naming(Path(file_path)):
            dump(self, value_dict, file_path, file_format)

    return run


class _Waiting:
    """A file backend that only notes removals, also in the message hub and so in the checkpoint."""

    def __init__(self, backend: BaseStorageBackend, hub: MessageHub) -> None:
        self.backend, self.hub = backend, hub
        self.outdated: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.backend, name)

    def remove(self, path: object) -> None:
        """Notes a file to remove."""
        self.outdated.append(str(path))
        self.hub.update_info(OUTDATED, list(self.outdated))

    rmtree = remove  # DeepSpeed's checkpoints are folders


def _named(hook: CheckpointHook) -> set[str]:
    """The files that the hook still counts as its own: the last one, the best ones, and those it keeps."""
    best = [getattr(hook, 'best_ckpt_path', None), *(getattr(hook, 'best_ckpt_path_dict', None) or {}).values()]
    steps = getattr(hook, 'keep_ckpt_ids', None) or ()
    kept = [hook.file_backend.join_path(hook.out_dir, hook.filename_tmpl.format(step)) for step in steps]
    return {str(path) for path in (hook.last_ckpt, *best, *kept) if path}


def _remove(hook: CheckpointHook, hub: MessageHub, paths: list[str]) -> None:
    backend = hook.file_backend
    for path in sorted(set(paths) - _named(hook)):
        if backend.isfile(path):
            backend.remove(path)
        elif backend.isdir(path):
            backend.rmtree(path)
    if hub.get_info(OUTDATED):
        hub.update_info(OUTDATED, [])


def removing_late(save: Callable) -> Callable:
    @functools.wraps(save)
    def run(self: CheckpointHook, runner: Runner, *args: object, **kwargs: object) -> object:
        backend, hub = self.file_backend, runner.message_hub
        if isinstance(backend, _Waiting):  # called by a method that is itself wrapped and will remove them
            return save(self, runner, *args, **kwargs)
        self.file_backend = waiting = _Waiting(backend, hub)
        try:
            result = save(self, runner, *args, **kwargs)
        finally:
            self.file_backend = backend
        _remove(self, hub, waiting.outdated)
        return result

    return run


def removing_what_a_kill_left(before_train: Callable) -> Callable:
    @functools.wraps(before_train)
    def run(self: CheckpointHook, runner: Runner) -> None:
        before_train(self, runner)
        if not is_main_process():
            return
        folder, used = (os.path.realpath(str(path)) for path in (self.out_dir, start_of(runner).load_from))
        outdated = {path: os.path.realpath(path) for path in runner.message_hub.get_info(OUTDATED) or ()}
        own = [path for path, real in outdated.items() if os.path.dirname(real) == folder and real != used]
        _remove(self, runner.message_hub, own)

    return run
