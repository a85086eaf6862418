"""What we use of torch's private parts, and what its versions name or do differently, each in one place.

`functional.backend` and `trust` have two more such places, which only they need.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .trust import weights_only_is_safe

BEFORE_2_6 = not weights_only_is_safe()

# The attributes in which torch's modules keep the hooks of a forward pass
HOOKS_OF_FORWARD = (
    '_forward_hooks', '_forward_hooks_with_kwargs', '_forward_hooks_always_called', '_forward_pre_hooks',
    '_forward_pre_hooks_with_kwargs',
)  # fmt: skip


def compiled_call_off(attributes: dict[str, object]) -> None:
    """Let a module that was compiled in place (`module.compile()`) run uncompiled, given its `vars`."""
    if attributes.get('_compiled_call_impl') is not None:
        attributes['_compiled_call_impl'] = None


def within_compiled(model: nn.Module) -> nn.Module | None:
    """The model inside the wrapper of `torch.compile`; None for any other module."""
    return getattr(model, '_orig_mod', None)


def raise_recompile_limit(at_least: int) -> None:
    """Let `torch.compile` make at least this number of graphs of one piece of code."""
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'  # before torch 2.6
    setattr(config, name, max(getattr(config, name), at_least))


def is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` (FSDP2) has been applied to a module; torch 2.6 moved its class."""
    places = (sys.modules.get(f'torch.distributed.{name}') for name in ('fsdp', '_composable.fsdp'))
    return any(isinstance(module, vars(place).get('FSDPModule', ())) for place in places if place)


def allowing(known: Sequence[Callable | tuple[Callable, str]]) -> AbstractContextManager[object]:
    """A context in which `torch.load(weights_only=True)` also accepts these classes and functions.

    Before torch 2.6, which introduced other names for them, it accepts only tensors and plain data.
    """
    return torch.serialization.safe_globals(list(known)) if not BEFORE_2_6 else nullcontext()


def last_child(module: nn.Module) -> tuple[str, nn.Module]:
    """The name of the last registered child of a module, and the child, which may also have an earlier name."""
    return next((name, child) for name, child in reversed(module._modules.items()) if child is not None)


def remove_forward_hook(module: nn.Module, hook: Callable[..., object]) -> None:
    """Remove a hook function from a module, which may be a copy of the module where it was registered."""
    for key in [k for k, own in module._forward_hooks.items() if own is hook]:
        del module._forward_hooks[key]


def add_load_pre_hook(module: nn.Module, hook: Callable[..., object]) -> None:
    """`register_load_state_dict_pre_hook`, which is public since torch 2.5."""
    module._register_load_state_dict_pre_hook(hook, with_module=True)


def has_load_pre_hook(module: nn.Module, hook: Callable[..., object]) -> bool:
    """Whether `add_load_pre_hook` has registered this function."""
    return any(getattr(own, 'hook', own) is hook for own in module._load_state_dict_pre_hooks.values())


def add_step_hook(optimizer: Optimizer, hook: Callable[[Optimizer, tuple, dict], None]) -> None:
    """`register_step_post_hook` for a function that may run twice after a step.

    The compiler of torch 2.1 removes all such hooks from all optimizers; the compiler of torch 2.14 does not.
    """
    optimizer.register_step_post_hook(hook)
    if not BEFORE_2_6:
        return
    step = optimizer.step

    @functools.wraps(step)
    def step_and_hook(*args: Any, **kwargs: Any) -> object:
        result = step(*args, **kwargs)
        hook(optimizer, args, kwargs)
        return result

    optimizer.step = step_and_hook  # type: ignore[assignment, method-assign]
