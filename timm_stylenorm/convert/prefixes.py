"""Detection of whose keys a state dict has, after any prefix."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Mapping

from torch import Tensor

from .sources import SOURCES, Source, get_source

State = Mapping[str, Tensor]


def detect(state: State) -> str:
    """Name of the source that knows every key of a state dict.

    Raises:
        ValueError: There is none. The message says how many keys fit which source.
    """
    return resolve(state, None)[0]


def resolve(state: State, source: str | None) -> tuple[str, dict[str, Tensor], str]:
    """The source's name, the state dict without its prefix, and the prefix.

    Raises:
        ValueError: No source knows all keys; or the named source knows fewer than half, or its marks are missing.
    """
    _check(state)
    own = any('.style.' in key for key in state)
    if source is not None:
        name, row = get_source(source)
        if row.wrapped:
            return name, *_unwrapped(state, row)
        _refuse_deep_stem(state)
        inner, prefix = strip(state, lambda keys: len(row.fitting(keys)))
        if 2 * len(row.fitting(inner)) < len(inner) or not row.marked(inner):
            lacking = '' if row.marked(inner) else f': it lacks {" or ".join(row.marker)}'
            raise ValueError(f'this is no checkpoint of {name}{lacking}. {_counts(state)}')
        return name, inner, prefix
    for prefix in _prefixes(state):
        inner = _below(state, prefix)
        if len(inner) == len(state):
            for name, row in SOURCES.items():
                if not own and row.marked(inner) and len(row.fitting(inner)) == len(inner):
                    return name, inner, prefix
    for name, row in SOURCES.items():
        with contextlib.suppress(ValueError):
            return name, *_unwrapped(state, row)
    _refuse_deep_stem(state)
    if own:
        raise ValueError('these are keys of this package already; to write keys of others, export them')
    raise ValueError(f'no known source has the keys of this checkpoint. {_counts(state)}')


def _unwrapped(state: State, row: Source) -> tuple[dict[str, Tensor], str]:
    """The part of a state dict below the prefix that identifies a source, and this prefix."""
    common = _prefixes(state)[0].removesuffix('net.')
    prefix = next((common + p for p in row.wrapped if any(key.startswith(common + p) for key in state)), None)
    if prefix is None:
        raise ValueError(f'no key of this checkpoint starts with {" or ".join(map(repr, row.wrapped))}')
    return _below(state, prefix), prefix


def strip(state: State, score: Callable[[State], int]) -> tuple[dict[str, Tensor], str]:
    """The part of a state dict below the prefix for which the score is highest, and that prefix."""
    prefix = max(_prefixes(state), key=lambda prefix: score(_below(state, prefix)))  # of equals, the shortest
    return _below(state, prefix), prefix


def _check(state: State) -> None:
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f'expected a dict of tensors, and {key!r} is of type {type(value).__name__}')
    if not state:
        raise ValueError('the state dict is empty')


def _refuse_deep_stem(state: State) -> None:
    deep = next((key for key in state if re.search(r'(^|\.)(stem|conv1)\.\d+\.weight$', key)), None)
    if deep is not None:
        raise ValueError(
            f'{deep!r} is of a stem of three convolutions (ResNetV1c, ResNet-C, ResNet-D); the networks of '
            f'{", ".join(SOURCES)} have one 7x7 convolution there, and neither can be made of the other'
        )


def _prefixes(state: State) -> list[str]:
    """Prefixes (whole segments) of at least half of the keys, shortest first; a common 'module.', 'net.' is in all."""
    counts: Counter[str] = Counter()
    for key in state:
        segments = key.split('.')[:-1]
        counts.update('.'.join(segments[:n]) + '.' for n in range(1, min(len(segments), 4)))
    common = ''
    while wrapper := next((w for w in ('module.', 'net.') if counts[common + w] == len(state)), None):
        common += wrapper
    often = [prefix for prefix, n in counts.items() if 2 * n >= len(state) and len(prefix) > len(common)]
    return [common, *sorted(often, key=len)]


def _below(state: State, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _counts(state: State) -> str:
    """How many keys fit which source, best first, and some that do not fit the best."""
    fits = {}
    for name, row in ((n, r) for n, r in SOURCES.items() if not r.wrapped):
        inner, prefix = strip(state, lambda keys, row=row: len(row.fitting(keys)))  # type: ignore[misc]
        fits[name] = prefix, set(row.fitting(inner)), inner
    order = sorted(fits, key=lambda name: -len(fits[name][1]))
    prefix, known, inner = fits[order[0]]
    other = [prefix + key for key in inner if key not in known] + [key for key in state if not key.startswith(prefix)]
    counts = ', '.join(f'{name} {len(fits[name][1])}' for name in order)
    strange = f' {len(other)} it does not know: {", ".join(other[:3])}{", ..." if len(other) > 3 else ""}.'
    unmarked = not other and not SOURCES[order[0]].marked(inner)
    lacking = f' It lacks what marks {order[0]}: {" and ".join(SOURCES[order[0]].marker)}.' if unmarked else ''
    if not known:
        return (
            f'None of its {len(state)} keys is known: {", ".join(list(state)[:3])}{", ..." if len(state) > 3 else ""}'
        )
    return f'Of {len(state)} keys fit: {counts}. The nearest is {order[0]}.{strange if other else lacking}'
