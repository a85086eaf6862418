"""How a layer hangs on a module, or stands in the place of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..host import HOOKS_OF_FORWARD
from ..layers import StyleLayer
from .layouts import Unchecked
from .sites import Site


def owner_of(module: nn.Module) -> Any:
    """The module that holds the child `style`: a container would run it, so that its last child holds it instead."""
    while isinstance(module, nn.ModuleDict | nn.Sequential) and len(module):
        module = list(module.children())[-1]
    return module


def _run(module: nn.Module, place: str, x: Tensor) -> Tensor:
    owner = owner_of(module)
    for method, layer in owner.style.items():
        if layer.place == place:
            if 'style_unchecked' in vars(owner) and method in owner.style_unchecked:
                owner.style_unchecked[method].check(x)
                del owner.style_unchecked[method]
            x = layer(x)
    return x


def _run_style(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook."""
    return _run(module, 'after', output)


def _run_style_of_container(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook of a container."""
    return _run(module, 'after container', output)


def _run_style_before(module: nn.Module, args: tuple[Tensor]) -> Tensor:
    """The forward pre-hook."""
    return _run(module, 'before', args[0])


def _run_style_at_the_last_call(module: Any, args: tuple[Tensor]) -> Tensor:
    """The forward pre-hook of an activation that its block calls several times."""
    module.style_calls += 1
    return _run(module, 'before', args[0]) if module.style_calls == module.style_wanted else args[0]


def _begin_calls(block: Any, args: Any) -> None:
    """The forward pre-hook of that block."""
    block.relu.style_calls = 0


def _check_calls(block: Any, args: Any, output: Any) -> None:
    """The forward hook of that block."""
    if block.relu.style_calls != block.relu.style_wanted:
        raise RuntimeError(
            f'{type(block).__name__} called its activation {block.relu.style_calls} times, not '
            f'{block.relu.style_wanted}: its residual sum could not be found'
        )


_HOOKS = (_run_style, _run_style_of_container, _run_style_before, _run_style_at_the_last_call)
_BLOCK_HOOKS = (_begin_calls, _check_calls)


def attach(site: Site, method: str, layer: StyleLayer, unchecked: Unchecked | None = None) -> None:
    """Make a layer the child `style.<method>` of a module, and let a hook call it.

    Args:
        site: The place.
        method: Name of the method.
        layer: The layer.
        unchecked: What the hook checks in the first forward; None where a probe has done it.
    """
    owner = owner_of(site.module)
    if isinstance(vars(owner).get('style'), str):
        owner.plain_style = vars(owner).pop('style')  # 'pytorch' or 'caffe' in mmseg's blocks, which only read it once
    if not hasattr(owner, 'style'):
        owner.style = nn.ModuleDict()
    owner.style[method] = layer
    if unchecked is not None:
        vars(owner).setdefault('style_unchecked', {})[method] = unchecked
    module, layer.place = site.module, site.where
    if site.where == 'after':
        hook = _run_style
        if owner is not module:  # the owner may be a place of its own
            hook, layer.place = _run_style_of_container, 'after container'
        _hook_once(module._forward_hooks, module.register_forward_hook, hook)
    elif site.block is None:
        _hook_once(module._forward_pre_hooks, module.register_forward_pre_hook, _run_style_before)
    else:
        module.style_calls, module.style_wanted = 0, site.calls  # type: ignore[assignment]
        _hook_once(module._forward_pre_hooks, module.register_forward_pre_hook, _run_style_at_the_last_call)
        _hook_once(site.block._forward_pre_hooks, site.block.register_forward_pre_hook, _begin_calls)
        _hook_once(site.block._forward_hooks, site.block.register_forward_hook, _check_calls)


def _hook_once(present: Mapping[int, Any], register: Callable[..., Any], hook: Callable[..., Any]) -> None:
    """Register a hook before those of others, to whom what the module returns is styled."""
    if hook not in present.values():
        register(hook, prepend=True)


def replace(model: nn.Module, layers: Mapping[Any, Any]) -> None:
    """Put modules in the place of others, wherever these occur."""
    for old, new in layers.items():
        for hooks in HOOKS_OF_FORWARD:  # as timm's feature extractors have them
            getattr(new, hooks).update(getattr(old, hooks))
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in layers:
                parent._modules[name] = layers[child]


def _hook_dicts(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return module._forward_hooks, module._forward_pre_hooks  # type: ignore[return-value]


def styled_modules(model: nn.Module) -> list[nn.Module]:
    """The modules to which layers are attached."""
    return [m for m in model.modules() if any(h in _HOOKS for hooks in _hook_dicts(m) for h in hooks.values())]


def module_of(model: nn.Module, layer: StyleLayer) -> nn.Module:
    """The module to which a layer of the model is attached.

    Raises:
        ValueError: The layer is not attached in this model.
    """
    for module in styled_modules(model):
        contains = owner_of(module) is not module
        if layer in owner_of(module).style.values() and (layer.place == 'after container') == contains:  # type: ignore
            return module
    raise ValueError(f'{layer.label or type(layer).__name__} is not attached in this {type(model).__name__}')


@contextmanager
def muted(module: nn.Module, layers: bool = True) -> Iterator[None]:
    """A forward that is replaced: what counts the calls inside of it does not run, nor what is attached to the module
    itself, with `layers`. A layer at the last of several calls goes on: that call is not the one that is replaced.
    """
    kept = [(hooks, dict(hooks)) for hooks in _hook_dicts(module)]
    hidden = _BLOCK_HOOKS + (_HOOKS[:-1] if layers else ())
    try:
        for hooks, before in kept:
            for key, hook in before.items():
                if hook in hidden:
                    del hooks[key]
        yield
    finally:
        for hooks, before in kept:
            hooks.clear()
            hooks.update(before)


def detach_all(model: nn.Module) -> None:
    """Take off what `attach` has put on."""
    for module in styled_modules(model):
        owner = owner_of(module)
        owner._modules.pop('style', None)
        vars(owner).pop('style_unchecked', None)
        if 'plain_style' in vars(owner):
            owner.style = vars(owner).pop('plain_style')
        for name in ('style_calls', 'style_wanted'):
            vars(module).pop(name, None)
    for module in model.modules():
        for hooks in _hook_dicts(module):
            for key in [k for k, hook in hooks.items() if hook in _HOOKS + _BLOCK_HOOKS]:
                del hooks[key]
