"""Temporary changes to a model, which are undone at the end of a `with` block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def override_attr(things: Iterable[object], name: str, value: object) -> Iterator[None]:
    """Within, an attribute of all these modules or parameters has another value."""
    before = [(thing, getattr(thing, name)) for thing in things]
    try:
        for thing, _ in before:
            setattr(thing, name, value)
        yield
    finally:
        for thing, old in before:
            setattr(thing, name, old)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within, all modules are in evaluation mode; afterwards each is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
