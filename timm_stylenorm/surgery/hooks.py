"""How a layer is hooked to a module, or takes the place of one.

Hooks are plain functions that look up the child `style`, so that a copied model and a replica run their own layers.

Code that replaces a norm layer by another module (SyncBatchNorm converters, freezing) loses its hooks, and in some
cases its children. torch calls `_hang_again` when a module gets a child, and this function puts them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from ..layers import StyleLayer
from ..torch_host import HOOKS_OF_FORWARD
from .attachment import Attachment, Attachments
from .context import override_attr
from .site import Site
from .structure import NORMS
from .sums import Slot


class _Counted(nn.Module):
    """For type checkers: an activation that its block calls several times, after `attach`."""

    style: Attachments
    style_calls: int
    style_wanted: int


class _Block(nn.Module):
    """For type checkers: the block that calls such an activation."""

    relu: _Counted


def owner_of(module: nn.Module) -> nn.Module:
    """The module that holds the child `style`: a container would run the child, so its last module holds it instead."""
    while isinstance(module, nn.ModuleDict | nn.Sequential) and len(module):
        module = list(module.children())[-1]
    return module


def attachments_of(module: nn.Module) -> Attachments | None:
    """The child `style` of the module that holds it."""
    found = getattr(owner_of(module), 'style', None)
    return found if isinstance(found, Attachments) else None


def _held_by(owner: nn.Module) -> Attachments:
    return cast('Attachments', owner.style)


def _run(module: nn.Module, x: Tensor, position: str, of_container: bool = False) -> Tensor:
    style = _held_by(owner_of(module))
    for layer in [] if style.muted else list(style.values()):
        record = layer.attachment
        if record.position == position and record.of_container == of_container:
            unchecked = record.unchecked
            if unchecked is not None:
                record.refuse_tracing(x, 'nobody has seen what arrives there: run it once before')
                unchecked.check(x)
                record.unchecked = None
            if layer.enabled:
                x = layer(x)
            else:
                layer.drop_losses()
    return x


def _run_style(module: nn.Module, args: object, output: Tensor) -> Tensor:
    """The forward hook."""
    return _run(module, output, 'after')


def _run_style_of_container(module: nn.Module, args: object, output: Tensor) -> Tensor:
    """The forward hook of a container."""
    return _run(module, output, 'after', of_container=True)


def _run_style_before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The forward pre-hook."""
    return _first_restyled(module, args, of_container=False)


def _run_style_before_container(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The forward pre-hook of a container."""
    return _first_restyled(module, args, of_container=True)


def _first_restyled(module: nn.Module, args: tuple[Tensor, ...], of_container: bool) -> tuple[Tensor, ...]:
    if args:
        return (_run(module, args[0], 'before', of_container), *args[1:])
    labels = ', '.join(str(layer.attachment) for layer in _held_by(owner_of(module)).values())
    raise TypeError(f'{labels}: {type(module).__name__} must get its first argument by position, not by name')


def _run_style_at_the_last_call(module: _Counted, args: tuple[Tensor]) -> Tensor:
    """The forward pre-hook of an activation that its block calls several times."""
    module.style_calls += 1
    return _run(module, args[0], 'before') if module.style_calls == module.style_wanted else args[0]


def _begin_calls(block: _Block, args: tuple[object, ...]) -> None:
    """The forward pre-hook of a block that calls its activation several times."""
    for layer in block.relu.style.values():
        layer.attachment.refuse_tracing(args[0] if args else None, 'its last call gets lost')
    block.relu.style_calls = 0


def _check_calls(block: _Block, args: object, output: object) -> None:
    """The forward hook of a block that calls its activation several times."""
    if block.relu.style_calls != block.relu.style_wanted and not block.relu.style.muted:
        raise RuntimeError(
            f'{type(block).__name__} called its activation {block.relu.style_calls} times, not '
            f'{block.relu.style_wanted}: its residual sum could not be found'
        )


_HOOKS = (
    _run_style, _run_style_of_container, _run_style_before, _run_style_before_container, _run_style_at_the_last_call
)  # fmt: skip


def attach(site: Site, method: str, layer: StyleLayer) -> None:
    """Make a layer the child `style.<method>` of a module, and let a hook call it.

    Args:
        site: The place.
        method: Name of the method.
        layer: The layer, with its record.
    """
    module = site.module
    owner = owner_of(module)
    if isinstance(vars(owner).get('style'), str):
        # 'pytorch' or 'caffe' in mmseg's blocks, which only read it once
        vars(owner)['plain_style'] = vars(owner).pop('style')
    if not hasattr(owner, 'style'):
        owner.style = Attachments().train(owner.training)
    _held_by(owner)[method] = layer
    layer.attachment.of_container = owner is not module  # the owner may hold layers of its own, too
    if site.block is None:
        _hang(module, layer.attachment)
    else:
        vars(module).update(style_calls=0, style_wanted=site.calls)
        before, block = module._forward_pre_hooks, site.block
        _hook_once(before, module.register_forward_pre_hook, _run_style_at_the_last_call)
        _hook_once(block._forward_pre_hooks, block.register_forward_pre_hook, _begin_calls)
        _hook_once(block._forward_hooks, block.register_forward_hook, _check_calls)


def _hang(module: nn.Module, record: Attachment) -> None:
    if record.position == 'after':
        hook: Callable[..., object] = _run_style_of_container if record.of_container else _run_style
        _hook_once(module._forward_hooks, module.register_forward_hook, hook)
    else:
        hook = _run_style_before_container if record.of_container else _run_style_before
        _hook_once(module._forward_pre_hooks, module.register_forward_pre_hook, hook)


def _hook_once(present: Mapping[int, object], register: Callable[..., RemovableHandle], hook: object) -> None:
    """Register a hook before those of others, so that these see the styled output of the module."""
    if hook not in present.values():
        register(hook, prepend=True)


def _hang_again(module: nn.Module, name: str, child: nn.Module | None) -> None:
    """Let a module that receives another's child `style` run its layers; let one that takes the place of a norm layer
    receive the layer's child `style`."""
    if name == 'style' and isinstance(child, Attachments):
        for layer in child.values() if 'style_wanted' not in vars(module) else ():
            if not layer.attachment.of_container:
                _hang(module, layer.attachment)
        return
    old = module._modules.get(name)
    if child is None or not isinstance(old, NORMS) or old in child.modules():  # `child` wraps `old`
        return
    style = old._modules.get('style')
    if isinstance(style, Attachments) and 'style' not in child._modules:
        child.style = style


register_module_module_registration_hook(_hang_again)


def replace(model: nn.Module, layers: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules by others, wherever they occur in a model."""
    for old, new in layers.items():
        for hooks in HOOKS_OF_FORWARD:  # such as those of timm's feature extractors
            getattr(new, hooks).update(getattr(old, hooks))
        if attachments_of(old) is not None:
            new.style = old.style
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in layers:
                parent._modules[name] = layers[child]


def styled_modules(model: nn.Module) -> list[nn.Module]:
    """The modules to which layers are attached."""
    return [module for module in model.modules() if _is_styled(module)]


def _is_styled(module: nn.Module) -> bool:
    return any(hook in _HOOKS for hook in [*module._forward_hooks.values(), *module._forward_pre_hooks.values()])


def module_of(model: nn.Module, layer: StyleLayer) -> nn.Module:
    """The module to which a layer of the model is attached.

    Raises:
        ValueError: The layer is not attached in this model.
    """
    record = layer.attachment
    for module in styled_modules(model):
        owner = owner_of(module)
        if record is not None and layer in _held_by(owner).values() and record.of_container == (owner is not module):
            return module
    raise ValueError(f'{record or type(layer).__name__} is not attached in this {type(model).__name__}')


def refuse_wrapped(model: nn.Module) -> None:
    """Raise an error if a wrapper has taken the place of a styled module, as adapters (LoRA) do.

    The wrapper's own part of the output would be added to styled feature maps, and would not be styled itself.

    Raises:
        ValueError: A styled module is wrapped; the message names it.
    """
    for name, module in model.named_modules():
        style = attachments_of(module) if _is_styled(module) else None
        around, _, inner = f'.{name}'.rpartition('.')
        if style is None or inner.startswith('_') or inner == 'module':  # of FSDP, DDP, compilers, checkpointing
            continue
        for layer in style.values():
            place = f'.{layer.attachment.name}'
            if around.endswith(place) and not f'.{name}'.endswith(place):
                wrapper = type(model.get_submodule(around[1:])).__name__
                raise ValueError(
                    f'{layer.attachment}: {place[1:]!r} is inside of {wrapper} now, whose own part of the output is '
                    'not styled; wrap the plain model first, and then add the style'
                )


@contextmanager
def muted(module: nn.Module, layers: bool = True) -> Iterator[None]:
    """For a module whose forward is replaced: within, the calls inside it are not counted, and, with `layers`, the
    layers attached to it do not run. A layer at the last of several calls runs: that call is not the replaced one.
    """
    found = [attachments_of(module)] if layers and 'style_wanted' not in vars(module) else []
    if any(hook is _check_calls for hook in module._forward_hooks.values()):
        found.append(attachments_of(cast('_Block', module).relu))
    with override_attr([style for style in found if style is not None], 'muted', True):
        yield


def detach_all(model: nn.Module) -> None:
    """Remove everything that `attach` has added."""
    ours = (*_HOOKS, _begin_calls, _check_calls)
    for module in list(model.modules()):
        for name in ('style_calls', 'style_wanted'):
            vars(module).pop(name, None)
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if hook in ours]:
                del hooks[key]
        if isinstance(module._modules.get('style'), Attachments):
            del module._modules['style']
            if 'plain_style' in vars(module):
                module.style = vars(module).pop('plain_style')
    _close_slots(model)


@contextmanager
def slots_open(model: nn.Module, sites: Iterable[Site]) -> Iterator[None]:
    """Within, the modules of sites fill the empty places of blocks; afterwards only modules with a layer stay there."""
    try:
        for site in sites:
            if site.slot_of is not None:
                setattr(site.slot_of, site.name.rpartition('.')[2], site.module.train(site.slot_of.training))
        yield
    finally:
        _close_slots(model)


def _close_slots(model: nn.Module) -> None:
    """Empty the places again that have no layer."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Slot) and attachments_of(child) is None:
                delattr(module, name)
                setattr(module, name, None)
