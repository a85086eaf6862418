"""What a model is for the length of a block, and then as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def override_attr(modules: Iterable[nn.Module], name: str, value: object) -> Iterator[None]:
    """An attribute of all these modules has another value."""
    before = [(module, getattr(module, name)) for module in modules]
    try:
        for module, _ in before:
            setattr(module, name, value)
        yield
    finally:
        for module, old in before:
            setattr(module, name, old)


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
