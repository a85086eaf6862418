"""Checkpoints as plain data, which `torch.load(path)` reads anywhere, without a list of allowed classes.

`to_plain` turns everything except tensors into dicts, lists, numbers and strings. The entry `stylenorm_types` notes
what had another type that matters to a resumed run: log buffers, numpy arrays and numbers, sets, deques and paths;
`from_plain` restores these. Other subclasses of dicts, tuples, strings and numbers become the basic type for good.
"""

import functools
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from numpy.typing import DTypeLike
from torch import Tensor

TYPES = 'stylenorm_types'
ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.dtype, torch.device)
BASICS: tuple[type, ...] = (str, int, float, complex, bytes, bytearray)
FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, functools.partial)
DTYPES = {np.dtype(t) for t in ('bool', 'u1', 'i1', 'i2', 'i4', 'i8', 'f2', 'f4', 'f8', 'c8', 'c16')}  # torch's own
DEEPEST = 50  # levels; a structure that contains itself has no end
Keys = tuple[object, ...]


def _array(value: object, dtype: DTypeLike = None) -> np.ndarray:
    return np.array(value.cpu().numpy() if isinstance(value, Tensor) else value, dtype)


RESTORE: dict[str, Callable[[Any, Any], object]] = {  # name of a type: value and detail, back to the object
    'ndarray': _array,
    'number': lambda value, dtype: np.dtype(dtype).type(value),
    'HistoryBuffer': lambda value, _: HistoryBuffer(
        _array(value['log_history']), _array(value['count_history']), value['max_length']
    ),
    'deque': lambda value, maxlen: deque(value, maxlen),
    'set': lambda value, _: set(value),
    'frozenset': lambda value, _: frozenset(value),
    'Path': lambda value, _: Path(value),
}


@functools.cache
def _warn(text: str) -> None:
    """Log a warning once per process, since a run saves many checkpoints."""
    print_log(text, 'current', logging.WARNING)


class _Converter:
    """One conversion; `notes` are for `from_plain`, and `kept` lists what could not be converted."""

    def __init__(self) -> None:
        self.notes: list[list[object]] = []
        self.kept: list[str] = []

    def convert(self, value: object, keys: Keys) -> object:
        """The value itself if it is plain throughout, else a plain copy; nothing is changed in place."""
        if type(value) in ATOMS:
            return value
        if len(keys) > DEEPEST:
            return self._keep(value, keys)
        if isinstance(value, Tensor):
            return self._tensor(value, keys)
        if isinstance(value, np.generic | np.ndarray):
            return self._numpy(value, keys)
        if isinstance(value, HistoryBuffer):
            log, count = (self._unnoted(part, keys) for part in value.data)
            plain = {'log_history': log, 'count_history': count, 'max_length': int(value.max_length)}
            return self._note(plain, keys, 'HistoryBuffer')
        if isinstance(value, Enum):
            return self.convert(value.value, keys)
        if isinstance(value, PurePath):
            return self._note(str(value), keys, 'Path')
        if isinstance(value, Mapping):
            return self._mapping(value, keys)
        if isinstance(value, list | tuple | range):
            return self._sequence(value, keys)
        if isinstance(value, set | frozenset | deque):
            kind = next(kind for kind in (set, frozenset, deque) if isinstance(value, kind))
            plain_list = [self.convert(v, (*keys, k)) for k, v in enumerate(value)]
            return self._note(plain_list, keys, kind.__name__, getattr(value, 'maxlen', None))
        for basic in BASICS:
            if isinstance(value, basic):
                return basic.__str__(value) if basic is str else basic(value)
        return self._keep(value, keys)

    def _note(self, plain: object, keys: Keys, kind: str, detail: object = None) -> object:
        self.notes.append([list(keys), kind, detail])
        return plain

    def _unnoted(self, value: object, keys: Keys) -> object:
        count = len(self.notes)
        plain = self.convert(value, keys)
        del self.notes[count:]
        return plain

    def _keep(self, value: object, keys: Keys) -> object:
        where = ''.join(f'[{key!r}]' for key in keys)
        self.kept.append(f'checkpoint{where} ({type(value).__module__}.{type(value).__qualname__})')
        return value

    def _tensor(self, value: Tensor, keys: Keys) -> object:
        if type(value) in (Tensor, torch.nn.Parameter):
            return value.detach() if vars(value) else value  # attributes would be pickled, too
        if hasattr(type(value), '__tensor_flatten__'):  # of several tensors, such as DTensor
            return self._keep(value, keys)
        return value.detach().as_subclass(Tensor)

    def _numpy(self, value: np.generic | np.ndarray, keys: Keys) -> object:
        dtype = value.dtype
        plain: object = None
        if isinstance(value, np.generic):
            plain = value.item()
            if type(plain) in ATOMS:
                return self._note(plain, keys, 'number', dtype.str)
        elif type(value) is np.ndarray and dtype.newbyteorder('=') in DTYPES:
            plain = torch.from_numpy(value.astype(dtype.newbyteorder('='), order='C'))
        elif type(value) is np.ndarray and dtype.kind in 'iuUSO':
            plain = self.convert(value.tolist(), keys)
        if plain is None or isinstance(value, np.generic):
            return self._keep(value, keys)
        return self._note(plain, keys, 'ndarray', dtype.str)

    def _mapping(self, value: Mapping, keys: Keys) -> object:
        plain: dict[object, object] = OrderedDict() if type(value) is OrderedDict else {}
        same = type(value) in (dict, OrderedDict)
        for key, entry in value.items():
            if keys[:1] == ('param_schedulers',) and isinstance(entry, FUNCTIONS):
                same = False  # set by the config, and loading does not touch what is not in the state
                continue
            plain_key = self._unnoted(key, keys)
            plain[plain_key] = self.convert(entry, (*keys, plain_key))
            same = same and plain_key is key and plain[plain_key] is entry
        attributes = vars(value) if type(value) is OrderedDict else {}  # versions of the layers
        if attributes:
            plain_attributes = {name: self._unnoted(entry, (*keys, name)) for name, entry in attributes.items()}
            same = same and all(plain_attributes[name] is entry for name, entry in attributes.items())
            vars(plain).update(plain_attributes)
        return value if same else plain

    def _sequence(self, value: list | tuple | range, keys: Keys) -> object:
        plain = [self.convert(entry, (*keys, index)) for index, entry in enumerate(value)]
        if type(value) in (list, tuple) and all(a is b for a, b in zip(plain, value, strict=True)):
            return value
        return tuple(plain) if isinstance(value, tuple) else plain


def to_plain(checkpoint: object) -> object:
    """A checkpoint that `torch.load(path)` reads; it shares tensors with the given one, which is not changed.

    What cannot be converted is kept, and a warning names its key. Functions in the state of a parameter scheduler are
    left out, since its config builds them anew.
    """
    converter = _Converter()
    plain = converter.convert(checkpoint, ())
    if converter.kept:
        _warn(
            f'{", ".join(converter.kept[:5])} cannot be saved as plain data: torch.load needs weights_only=False for '
            'this checkpoint, and resuming from it is refused'
        )
    return {**plain, TYPES: converter.notes} if converter.notes and isinstance(plain, dict) else plain


def _restored(tree: Any, keys: list[object], kind: str, detail: object) -> object:
    if not keys:
        return RESTORE[kind](tree, detail)
    key, *rest = keys
    if isinstance(tree, tuple):
        return tuple(_restored(v, rest, kind, detail) if k == key else v for k, v in enumerate(tree))
    tree[key] = _restored(tree[key], rest, kind, detail)
    return tree


def from_plain(checkpoint: object) -> object:
    """Restores, in place, what `to_plain` noted. Notes on entries that no longer exist are ignored."""
    if not isinstance(checkpoint, dict):
        return checkpoint
    for keys, kind, detail in checkpoint.pop(TYPES, ()):
        try:
            _restored(checkpoint, keys, kind, detail)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if not isinstance(error, LookupError):
                print_log(f'checkpoint entry {keys} is no {kind} any more: {error}', 'current', logging.WARNING)
    return checkpoint
