"""Which checkpoint a resumed training goes on from: the newest complete one of its work dir, else none.

mmengine's `resume=True` uses `load_from` if that is set, even if it only names the weights to start from, and trusts
`last_checkpoint` blindly. With `choosing` (`host.PATCHES`) it means, in every training by the Runner:

1. `resume_from=PATH` in the config, or a `load_from` among the checkpoints of this run: resume from that file.
2. A complete checkpoint in the work dir: resume from the newest.
3. None: start as without `resume`, from `load_from` if there is one.

The first process searches and tells the others.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..trust import trust_folder
from .checkpoint import check_resumable, load_local, refusing
from .host import has_loaded, set_start, start_of, trains

SUFFIXES = ('.pth', '.pt', '.ckpt')


def peek(path: str) -> Mapping:
    """The content of a checkpoint file, if possible without reading its tensors.

    Raises:
        ValueError: the file is cut off, is not a checkpoint, or holds code.
    """
    try:
        with refusing(path, path):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except ValueError:  # also of an older format, or on a file system without mapping
        return load_local(path, map_location='cpu')


def _rank(path: Path) -> tuple[bool, int, float]:
    """The sort key of a checkpoint: whether it has an optimizer (best checkpoints have none), iteration, and time.

    Raises:
        ValueError: the file is not complete, or cannot be resumed from.
    """
    held = peek(str(path))
    check_resumable(held, str(path))
    return 'optimizer' in held, int(held['meta']['iter']), path.stat().st_mtime


def newest_checkpoint(work_dir: str, folders: Iterable[str] = ()) -> str | None:
    """The checkpoint to resume from, or None; a warning is logged if it is not the one that `last_checkpoint` names.

    Args:
        work_dir: holds `last_checkpoint`; the path in it may be from before the folder was moved.
        folders: other folders that may hold checkpoints.

    Raises:
        ValueError: the checkpoint that `last_checkpoint` names is damaged, and there is no other complete one.
    """
    note = Path(work_dir, 'last_checkpoint')
    named = note.read_text(errors='replace').strip() if note.is_file() else ''
    if '://' in named or (named and os.path.isdir(named)):  # a store, or DeepSpeed's folders: the host reads these
        return named
    faults = []
    first = [path for path in (Path(named), Path(work_dir, os.path.basename(named))) if named and path.is_file()]
    for path in first[:1]:
        try:
            check_resumable(peek(str(path)), str(path))
            return str(path)
        except (ValueError, OSError) as error:
            faults.append(str(error))
    found, where = [], dict.fromkeys([os.path.dirname(named) or work_dir, work_dir, *folders])
    for folder in where:
        for path in sorted(Path(folder).glob('*')) if os.path.isdir(folder) else ():
            if path.suffix in SUFFIXES and path not in first and path.is_file():
                try:
                    found.append((_rank(path), str(path)))
                except (ValueError, OSError) as error:
                    faults.append(str(error))
    if found:
        newest = max(found)[1]
        what = faults[0] if first and faults else f'{named} is not there' if named else 'there is no last_checkpoint'
        print_log(f'{what}; resuming from {newest}, the newest complete checkpoint', 'current', logging.WARNING)
        return newest
    if first:
        raise ValueError(f'{faults[0]}. There is no other complete checkpoint in {work_dir}; remove it to start anew')
    if named or faults:
        print_log(f'no complete checkpoint in {work_dir}', 'current', logging.WARNING)
    return None


def folders_of(runner: Runner) -> list[str]:
    """The folders, besides its work dir, in which a run has checkpoints."""
    own = [hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    return [os.path.join(out, os.path.basename(os.path.normpath(runner.work_dir))) for out in own if out]


def _choose(runner: Runner) -> None:
    """Sets the Runner's `load_from` and `resume` for its `load_or_resume`."""
    explicit, (start, resume) = runner.cfg.get('resume_from'), start_of(runner)
    if explicit:
        set_start(runner, explicit, True)
        return
    if not resume:
        return
    folders = folders_of(runner)
    own = {os.path.realpath(folder) for folder in (runner.work_dir, *folders)}
    if start and os.path.dirname(os.path.realpath(start)) in own:
        return
    answer: list[str | None] = [None, None]
    if is_main_process():
        try:
            answer[0] = newest_checkpoint(runner.work_dir, folders)
        except (ValueError, OSError) as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    newest, fault = answer
    if fault:
        raise ValueError(fault)
    if newest is not None:
        runner.logger.info(f'Resuming from {newest}.')
        set_start(runner, newest, True)
        return
    set_start(runner, start, False)
    text = f'resume: there is no checkpoint in {runner.work_dir} yet; starting'
    if start:
        text += f' from the weights of load_from={start}. To go on from that checkpoint, set resume_from to it'
    runner.logger.log(logging.WARNING if start else logging.INFO, text)


def choosing(load_or_resume: Callable) -> Callable:
    """`Runner.load_or_resume`, wrapped so that `resume` has the meaning stated at the head of this module."""

    @functools.wraps(load_or_resume)
    def run(self: Runner) -> None:
        for folder in (self.work_dir, *folders_of(self)):
            trust_folder(folder)
        if trains(self) and not has_loaded(self):
            _choose(self)
        load_or_resume(self)

    return run
