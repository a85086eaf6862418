"""Reading checkpoints of mmengine's Runner: no code in them is run, and those of another architecture are refused.

mmengine falls back to `weights_only=False` (onedl) or relies on torch's default (OpenMMLab), and only logs keys that do
not fit. With `host.PATCHES`, its loaders of files, downloads and stores use `load_local`, `load_url` and `load_any`,
which also restore what was saved as plain data. `CheckpointGuardHook` compares names and shapes before anything is
copied into the model.
"""

import os
import pickle
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from os import PathLike
from typing import BinaryIO

import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.serialization import MAP_LOCATION

from .. import trust
from ..checkpoints import existing, reading, safe_globals
from ..layers.owned import rename_main
from ..patches import StandIn
from ..surgery.weights import fitted
from .host import start_of, trains
from .model import bare_model
from .plain import from_plain


def _statistic(owner: object, name: str) -> object:
    """Stands in for `getattr`, by which log buffers name their own averaging methods; refuses anything else."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {owner!r}')
    return getattr(owner, name)


def refusing(source: str, file: str | PathLike = '/') -> AbstractContextManager[None]:
    """`checkpoints.reading` for files that the Runner saved with its log buffers."""
    return reading(source, safe_globals(HistoryBuffer, _statistic), file)


def load_local(filename: str, map_location: MAP_LOCATION = None) -> Mapping:
    """Reads a checkpoint file with `weights_only=True`.

    Raises:
        FileNotFoundError: there is no such file; the message names similar ones.
        ValueError: the file holds code, is damaged, or does not hold weights by their names.
    """
    path = existing(filename)
    with refusing(str(path), path):
        held = from_plain(torch.load(path, map_location=map_location, weights_only=True))
    weights = held.get('state_dict', held) if isinstance(held, Mapping) else None
    if (
        not isinstance(held, Mapping)
        or not isinstance(weights, Mapping)
        or not all(isinstance(key, str) for key in weights)
    ):
        raise ValueError(f'{path} holds no weights by their names, but {_kind(held)}')
    return held


def _kind(held: object) -> str:
    """`a list`, or `a dict of epoch, state_dict`."""
    names = f' of {", ".join(map(str, list(held)[:5]))}' if isinstance(held, Mapping) else ''
    return f'a {type(held).__name__}{names}'


def load_url(
    url: str, model_dir: str | None = None, map_location: MAP_LOCATION = None, progress: bool = True
) -> object:
    """Downloads a checkpoint into torch's hub cache and reads it with `weights_only=True`."""
    with refusing(url, model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')):
        return from_plain(trust.load_url(url, model_dir, map_location, progress, weights_only=True))


def load_any(file: str | BinaryIO, map_location: MAP_LOCATION = None, weights_only: bool | None = None) -> object:
    """Reads a file or a buffer with `weights_only=True`, whatever is passed in; replaces mmengine's own reader."""
    with refusing(*((file, file) if isinstance(file, str) else ('the checkpoint',))):
        return from_plain(torch.load(file, map_location=map_location, weights_only=True))


safe_torch = StandIn(torch, load=load_any)


def check_fit(model: torch.nn.Module, checkpoint: Mapping, source: str, complete: bool) -> None:
    """Compares a checkpoint with a model by names and shapes, before loading.

    Args:
        model: the model to be loaded.
        checkpoint: `{'state_dict': ...}` or a bare state dict.
        source: name of the checkpoint in the message.
        complete: whether all weights must fit, and no style layer may be foreign, as for testing and resuming. For
            `load_from`, half of the weights (tensors of two or more dimensions) of the smaller side is enough.

    Raises:
        ValueError: they do not fit; the message names both sides and the first keys that do not fit.
    """
    own = model.state_dict()
    loaded, fit = fitted(model, checkpoint.get('state_dict', checkpoint), wrappers=('module.',))
    weights = {k for k, v in own.items() if v.ndim > 1}
    fitting = len(weights - set(fit.missing) - set(fit.reshaped))
    smaller = min(len(weights), sum(getattr(v, 'ndim', 0) > 1 for v in loaded.values()))
    style = [k for k in fit.unexpected if '.style.' in k]
    if not (fitting * 2 < max(smaller, 1) or (complete and (fit.missing or fit.reshaped or style))):
        return
    backbone = getattr(model, 'backbone', None)
    inner = f' with backbone {type(backbone).__name__}' if backbone is not None else ''
    raise ValueError(
        f'checkpoint {source} ({len(loaded)} tensors) is of another architecture than {type(model).__name__}{inner} '
        f'({len(own)} tensors). {fit}. Use the config it was trained with, which is in its work dir, or its --style.'
    )


def check_resumable(checkpoint: object, source: str) -> None:
    """Refuses a checkpoint that mmengine's `Runner.resume` cannot use, such as one that holds weights only.

    Raises:
        ValueError: it cannot be used; the message names what is missing.
    """
    held = checkpoint if isinstance(checkpoint, Mapping) else {}
    lacking = [key for key in ('meta', 'state_dict', 'message_hub') if not isinstance(held.get(key), Mapping)]
    lacking += [f'meta.{key}' for key in ('epoch', 'iter') if 'meta' not in lacking and key not in held['meta']]
    if lacking:
        raise ValueError(
            f'cannot resume from {source}: it has no {", ".join(lacking)}. To start from it, use load_from'
        )


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuses a checkpoint of another architecture, for which mmengine only logs a warning."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Runs between reading the file and copying it into the model."""
        model = bare_model(runner.model)
        training, start = trains(runner), start_of(runner)
        source = str(start.load_from or runner.work_dir)
        if training and start.resume:
            check_resumable(checkpoint, source)
        state = checkpoint.get('state_dict', checkpoint)
        if isinstance(state, MutableMapping):
            rename_main(
                model.state_dict().keys(), state, 'module.' if any(k.startswith('module.') for k in state) else ''
            )
        check_fit(model, checkpoint, source, complete=start.resume or not training)
