"""What a model is for the length of a block, and then as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def override_attr(things: Iterable[object], name: str, value: object) -> Iterator[None]:
    """An attribute of all these modules, or parameters, has another value."""
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
    """All modules are in evaluation mode, and after it in their own again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
