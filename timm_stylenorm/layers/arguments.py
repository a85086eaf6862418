"""Checks of layer arguments; each error message states what is expected and the value that was passed in."""

from __future__ import annotations

import sys
from math import inf, isfinite
from numbers import Integral, Real


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)


def _refuse(layer: object, name: str, expected: str, value: object) -> None:
    raise ValueError(f'{type(layer).__name__}: expected {expected.format(name)}, got {value!r}')


def check(layer: object, **values: object) -> None:
    """Raise a ValueError if a value is not a positive, finite number."""
    for name, value in values.items():
        if not _is_number(value) or not value > 0:  # type: ignore[operator]
            _refuse(layer, name, 'a number {} > 0', value)


def check_range(layer: object, low: float, high: float = inf, **values: object) -> None:
    """Raise a ValueError if a value is not a finite number from `low` to `high`."""
    for name, value in values.items():
        if not _is_number(value) or not low <= value <= high:  # type: ignore[operator]
            _refuse(layer, name, f'{low} <= {{}}' + (f' <= {high}' if high < inf else ''), value)


def check_count(layer: object, least: int, **values: object) -> None:
    """Raise a ValueError if a value is not a whole number of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            _refuse(layer, name, f'a whole number {{}} >= {least}', value)


def check_flag(layer: object, **values: object) -> None:
    """Raise a ValueError if a value is neither true nor false."""
    numpy = sys.modules.get('numpy')  # NumPy values can only be passed in if NumPy has been imported
    flags = (bool, numpy.bool_) if numpy else bool
    for name, value in values.items():
        if not isinstance(value, flags):
            _refuse(layer, name, '{} to be true or false', value)
