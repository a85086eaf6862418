"""Reading checkpoint files without running what is in them, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import unknown

# Where a training script keeps the weights, the first that is there counts.
PARTS = ('state_dict', 'model', 'net', 'model_state_dict', 'state', 'network', 'feature_extractor')
SUFFIXES = ('.safetensors', '.pth')  # of what is written
_READABLE = ('.safetensors', '.pth', '.pt', '.tar', '.bin', '.ckpt')


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state_dict: The weights.
        part: Under which name they lay; '' for a file that holds nothing else.
        beside: What else is in the file.
    """

    state_dict: dict[str, Tensor]
    part: str
    beside: tuple[str, ...]


def read_state_dict(path: str | os.PathLike, part: str | None = None) -> dict[str, Tensor]:
    """`read_checkpoint` for its weights only."""
    return read_checkpoint(path, part).state_dict


def read_checkpoint(path: str | os.PathLike, part: str | None = None) -> Checkpoint:
    """Read a safetensors file or a checkpoint of torch, on the CPU; no code in it is run.

    Args:
        path: The file.
        part: Name of the entry with the weights; by default found among `PARTS`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds more than weights, or has no state dict under that name.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        names = sorted(p for p in path.parent.iterdir() if p.suffix in _READABLE) if path.parent.is_dir() else []
        raise FileNotFoundError(unknown('checkpoint', str(path), map(str, names)))
    with _naming(path):
        content = load_file(path) if path.suffix == '.safetensors' else _load(path)
    if isinstance(content, Mapping) and part is None and _is_state_dict(content):
        return Checkpoint(dict(content), '', ())
    if not isinstance(content, Mapping):
        raise ValueError(f'{path} holds no state dict, but {type(content).__name__}')
    parts = [name for name, value in content.items() if isinstance(name, str) and _is_state_dict(value)]
    chosen = part if part is not None else next((n for n in PARTS if n in parts), parts[0] if len(parts) == 1 else None)
    if chosen not in parts:
        asked = 'one to choose' if chosen is None else repr(chosen)
        raise ValueError(f'{path} has no state dict {asked} among its entries {", ".join(map(str, content))}')
    return Checkpoint(dict(content[chosen]), chosen, tuple(str(name) for name in content if name != chosen))


def write_state_dict(path: str | os.PathLike, state: Mapping[str, Tensor], force: bool = False) -> None:
    """Write a state dict, as .safetensors or .pth; to a file beside it first, which then takes the name.

    Raises:
        ValueError: Another extension.
        FileExistsError: The file exists, and `force` is not given.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ValueError(f'cannot tell the format of {path}: its name ends in neither {" nor ".join(SUFFIXES)}')
    if path.exists() and not force:
        raise FileExistsError(f'{path} exists already')
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, suffix='.part', dir=path.parent)
    os.close(handle)
    try:
        if path.suffix == '.safetensors':
            save_file(tensors, name, metadata={'format': 'pt'})
        else:
            torch.save(tensors, name)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's own is for the owner alone
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _load(path: Path) -> Any:
    known: list[Any] = []
    if importlib.util.find_spec('mmengine'):  # its checkpoints hold log buffers, and the classes are there
        from .runner.checkpoint import safe_globals

        known = safe_globals()
    with torch.serialization.safe_globals(known):
        return torch.load(path, map_location='cpu', weights_only=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the readers, with the file's name and what to do."""
    try:
        yield
    except Exception as error:  # bytes that are missing or wrong can make a reader fail anywhere
        asked = re.search(r'(?:GLOBAL|instantiate|class|function) ([A-Za-z_]\w*\.[\w.]*\w)', str(error))
        if '.tar format' in str(error):
            reason = 'it is of the tar format of torch before 0.2, which cannot be read without running code in it'
        elif asked is not None:
            reason = f'it holds more than weights (it asks for {asked[1]}), and reading that could run code'
        else:
            first = str(error).strip().partition('\n')[0] or type(error).__name__
            raise ValueError(f'cannot read {path}: damaged, cut short, or no checkpoint ({first})') from error
        raise ValueError(
            f'refused to read {path}: {reason}. If you trust where it comes from, keep only its weights: '
            "torch.save({'state_dict': torch.load(old, weights_only=False)['state_dict']}, new)"
        ) from error
