"""Checkpoint files, for every caller: read without running code in them, compared with a model, written whole."""

from __future__ import annotations

import difflib
import io
import os
import pickle
import re
import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .files import atomic_write
from .torch_host import allowing
from .trust import check_trusted

# Names under which training scripts keep the weights; the first one in the file counts.
PARTS = ('state_dict_ema', 'state_dict', 'model', 'net', 'model_state_dict', 'state', 'network', 'feature_extractor')
SUFFIXES = ('.safetensors', '.pth')  # of the files that we write
_READABLE = (*SUFFIXES, '.pt', '.tar', '.bin', '.ckpt')
_EXTRA = ('num_batches_tracked', '_extra_state')  # keys that a file may lack, or have in addition
# What the readers raise if a file is not a checkpoint, or only part of one.
DAMAGED = (
    pickle.UnpicklingError, EOFError, RuntimeError, LookupError, TypeError, ValueError,
    AttributeError, OSError, struct.error,
)  # fmt: skip
Global = Callable | tuple[Callable, str]  # what may be in a file, and under which name


class LogBuffer:
    """Stands in for mmengine's `HistoryBuffer`, which older checkpoints of its Runner hold beside the weights."""


def _attribute(owner: object, name: str) -> object:
    """Stands in for `getattr`, by which log buffers name their own averaging methods; refuses everything else."""
    if owner is not LogBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr of {owner!r}')
    return name


def safe_globals(log_buffer: Callable = LogBuffer, attribute: Callable = _attribute) -> list[Global]:
    """Classes that a checkpoint may hold beside tensors: numpy arrays and log buffers, under old and new names."""
    import numpy as np

    functions: list[Any] = [np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]]  # _reconstruct and scalar
    names = [(f, f'numpy.{core}.multiarray.{f.__name__}') for f in functions for core in ('core', '_core')]
    dtypes = {type(np.dtype(t)) for t in ('float16', 'float32', 'float64', 'int32', 'int64', 'uint8', 'uint32', 'bool')}
    names += [(attribute, f'{module}.getattr') for module in ('builtins', '__builtin__')]
    return [(log_buffer, 'mmengine.logging.history_buffer.HistoryBuffer'), np.ndarray, np.dtype, *dtypes, *names]


def _damaged() -> tuple[type[Exception], ...]:
    """`DAMAGED`, and the error of safetensors if that package has been imported."""
    module = sys.modules.get('safetensors')
    return DAMAGED if module is None else (*DAMAGED, module.SafetensorError)


@contextmanager
def reading(source: str, known: Sequence[Global] | None = None, file: str | os.PathLike | None = '/') -> Iterator[None]:
    """A context for `torch.load(..., weights_only=True)` and similar readers, in which errors name the source.

    Args:
        source: What to call the file in messages.
        known: What the file may hold besides tensors; `safe_globals()` by default.
        file: Its path, or the folder into which it is downloaded; '/' if it is not a file, None for safetensors.

    Raises:
        ValueError: The file is damaged, cut short, or holds more than weights; or it is a pickle that this torch cannot
            read safely.
    """
    if file is not None:
        check_trusted(source, file)
    try:
        with allowing(safe_globals() if known is None else known):
            yield
    except _damaged() as error:
        if isinstance(error, OSError) and (error.filename is not None or '://' in source):
            raise  # the file or the server cannot be reached
        asked = re.search(r'(?:GLOBAL|instantiate|class|function|load|for) ([A-Za-z_]\w*\.[\w.]*\w)', str(error))
        asked = asked or re.search(r'Unsupported global: GLOBAL (\w+)', str(error))  # of builtins
        if '.tar format' in str(error):
            reason = 'it is of the tar format of torch before 0.2, which cannot be read without running code in it'
        elif asked is not None:
            reason = f'it holds more than weights (it asks for {asked[1]}), and reading it could run code'
        else:
            unpickler = re.search(r'WeightsUnpickler error: (.*)', str(error))  # without torch's advice to run the code
            first = unpickler[1] if unpickler else str(error).strip().partition('\n')[0] or type(error).__name__
            raise ValueError(f'cannot read {source}: damaged, cut short, or no checkpoint ({first})') from error
        raise ValueError(
            f'refused to load {source}: {reason}. If you trust where it comes from, keep only its weights: '
            "torch.save({'state_dict': torch.load(old, weights_only=False)['state_dict']}, new)"
        ) from error


def existing(path: str | os.PathLike) -> Path:
    """The path of a checkpoint file.

    Raises:
        FileNotFoundError: There is no such file; the message suggests similar names.
        IsADirectoryError: It is a folder; the message names the checkpoints in it.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    folder = path if path.is_dir() else path.parent
    there = sorted(p.name for p in folder.iterdir() if p.suffix in _READABLE) if folder.is_dir() else []
    shown = f' {folder} holds {", ".join(there[:10])}{", ..." if len(there) > 10 else ""}' if there else ''
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder, not a checkpoint.{shown}")
    near = difflib.get_close_matches(path.name, there, n=1)
    hint = f"; did you mean '{folder / near[0]}'?" if near else '.'
    raise FileNotFoundError(f"there is no checkpoint '{path}'{hint}{shown}")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state_dict: The weights.
        part: The name of the entry with the weights; '' if the file holds nothing else.
        beside: The names of the other entries in the file.
    """

    state_dict: dict[str, Tensor]
    part: str
    beside: tuple[str, ...]


def read_state_dict(path: str | os.PathLike, part: str | None = None) -> dict[str, Tensor]:
    """The weights only of `read_checkpoint`."""
    return read_checkpoint(path, part).state_dict


def read_checkpoint(path: str | os.PathLike, part: str | None = None) -> Checkpoint:
    """Read a safetensors file or a torch checkpoint to the CPU; no code in it is run.

    Args:
        path: The file.
        part: Name of the entry with the weights; by default the first of `PARTS`, or the only one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds more than weights, or has no state dict under that name.
    """
    path = existing(path)
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file

        with reading(str(path), file=None):
            content = load_file(path)
    else:
        with reading(str(path), file=path):
            content = torch.load(path, map_location='cpu', weights_only=True)
    if isinstance(content, Mapping) and part is None and _is_state_dict(content):
        return Checkpoint(dict(content), '', ())
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds no state dict, but {type(content).__name__}')
    parts = [name for name, value in content.items() if isinstance(name, str) and _is_state_dict(value)]
    chosen = part if part is not None else next((n for n in PARTS if n in parts), parts[0] if len(parts) == 1 else None)
    if chosen not in parts:
        entries = f'among its entries {", ".join(map(str, content))}'
        if chosen is None and parts:
            raise ValueError(f'{path} has several state dicts {entries}: say which, {" or ".join(map(repr, parts))}')
        raise ValueError(f'{path} has no state dict {"" if chosen is None else repr(chosen) + " "}{entries}')
    return Checkpoint(dict(content[chosen]), chosen, tuple(str(name) for name in content if name != chosen))


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(key, str) and isinstance(v, Tensor) for key, v in value.items())


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit those of a model, by name and shape.

    Attributes:
        missing: Keys of the model that the file lacks.
        unexpected: Keys of the file that the model lacks.
        reshaped: Keys of both whose shapes differ.
        shapes: For each of these, the shape in the file and the shape in the model.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    shapes: Mapping[str, str]

    def __bool__(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        """'2 missing: a, b; 1 of another shape: c (3,) instead of (4,)'; at most three keys of each kind."""
        kinds = {
            'missing': self.missing,
            'of another shape': [f'{key} {self.shapes[key]}' for key in self.reshaped],
            'unknown to the model': self.unexpected,
        }
        some = {kind: ', '.join(keys[:3]) + (', ...' if len(keys) > 3 else '') for kind, keys in kinds.items()}
        return '; '.join(f'{len(kinds[kind])} {kind}: {text}' for kind, text in some.items() if text)


def compare(own: Mapping[str, Tensor], loaded: Mapping[str, object], optional: Iterable[str] = ()) -> Fit:
    """Compare the state dict of a model with that of a file, before loading.

    Args:
        own: The state dict of the model.
        loaded: The state dict of the file.
        optional: Keys that either of them may lack. Batch counters and extra states may be missing in any case.
    """
    free: Collection[str] = {*optional}

    def counts(key: str) -> bool:
        return key not in free and not key.endswith(_EXTRA)

    reshaped = [k for k, v in own.items() if k in loaded and getattr(loaded[k], 'shape', None) != v.shape]
    shapes = {k: f'{tuple(getattr(loaded[k], "shape", ()))} instead of {tuple(own[k].shape)}' for k in reshaped}
    missing = [k for k in own if k not in loaded and counts(k)]
    return Fit(missing, [k for k in loaded if k not in own and counts(k)], reshaped, shapes)


def write_state_dict(path: str | os.PathLike, state: Mapping[str, Tensor], force: bool = False) -> None:
    """Write a state dict, as .safetensors or .pth, whole or not at all.

    Raises:
        ValueError: The file has another extension.
        FileExistsError: The file exists, and `force` is not given.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f'cannot tell the format of {path}: its name ends in neither {" nor ".join(SUFFIXES)}')
    if path.exists() and not force:
        raise FileExistsError(f'{path} exists already')
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.pth':
        save_atomic(tensors, path)
        return
    import safetensors.torch

    with atomic_write(path) as part:
        part.write_bytes(safetensors.torch.save(tensors, metadata={'format': 'pt'}))


def save_atomic(content: object, path: Path) -> None:
    """`torch.save`, whole or not at all. If it fails, the OSError says why, unlike that of torch's writer."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as part:
        part.write_bytes(buffer.getbuffer())
