"""The parts of residual blocks as sites, found by a forward pass on the meta device; `sums` says what they are."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

from torch import nn

from .meta import watch
from .site import Site
from .structure import SHORTCUTS, blocks_of, layout_of, out_channels
from .sums import Parts, Slot, Spot, SumWatch

# Block -> the module that will fill its empty place, the same for all methods
_slots: WeakKeyDictionary[nn.Module, Slot] = WeakKeyDictionary()
_known: WeakKeyDictionary[nn.Module, tuple[list[tuple[str, type]], dict[str, Parts] | None]] = WeakKeyDictionary()


def residual_parts(model: nn.Module) -> dict[str, Parts]:
    """Name of each block that has a residual sum, in order -> where the parts of the sum are.

    Raises:
        ValueError: No forward pass of the model could be run.
    """
    signature = [(name, type(module)) for name, module in model.named_modules()]
    if model not in _known or _known[model][0] != signature:
        _known[model] = signature, _found(model)
    found = _known[model][1]
    if found is None:
        raise ValueError(
            f'no forward of {type(model).__name__} could be run on the meta device, so that its residual sums are not '
            'known; name modules'
        )
    return found


def _found(model: nn.Module) -> dict[str, Parts] | None:
    blocks = [block for stage in blocks_of(model).values() for block in stage]
    plain = watch(model, lambda: SumWatch(blocks))
    if plain is None:
        return None
    found = {name: plain.passes[name].parts() for name, _ in blocks if name in plain.passes}
    found = {name: parts for name, parts in found.items() if parts}
    lacking = [(name, block) for name, block in blocks if isinstance(found.get(name, {}).get('identity'), str)]
    slots = {name: slot for name, block in lacking if (slot := _empty_place(block))}
    filled = watch(model, lambda: SumWatch(blocks, slots)) if slots else None
    for name, slot in slots.items() if filled else ():
        if filled.passes[name].adds_what_comes_through(slot):  # type: ignore[union-attr]
            found[name]['identity'] = Spot(slot, empty=True)
    return found


def _empty_place(block: nn.Module) -> str | None:
    return next((name for name in sorted(SHORTCUTS) if name in vars(block) and vars(block)[name] is None), None)


def residual_sites(model: nn.Module, label: str, part: str, blocks: list[str]) -> list[Site]:
    """The sites of a part in those of the named blocks that have a residual sum.

    Raises:
        ValueError: No block has a residual sum, a block has no place for this part, or no forward pass could be run.
    """
    sites, found = [], residual_parts(model)
    for name in blocks:
        spot = found.get(name, {}).get(part)
        if isinstance(spot, str):
            kind = type(model.get_submodule(name)).__name__
            raise ValueError(f'site {label!r}: {name!r} ({kind}) {spot}')
        if spot is not None:
            sites.append(_site(model, name, part, spot))
    if not sites:
        raise ValueError(f'site {label!r}: no block of {type(model).__name__} there has a residual sum')
    return sites


def _site(model: nn.Module, name: str, part: str, spot: Spot) -> Site:
    block = model.get_submodule(name)
    path = f'{name}.{spot.name}' if spot.name else name
    module = _slots.setdefault(block, Slot()) if spot.empty else model.get_submodule(path)
    channels = out_channels(block)
    if part == 'pre':
        channels = getattr(module, 'in_channels', getattr(module, 'num_features', None))
    dim, prefix = layout_of(model)
    site = Site(f'{name}.{part}', path, module, channels, spot.where, channel_dim=dim, prefix_tokens=prefix)
    site = replace(site, block=block, calls=spot.calls) if spot.calls > 1 else site
    return replace(site, slot_of=block) if spot.empty else site
