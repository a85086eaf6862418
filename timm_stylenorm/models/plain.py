"""Whether weights belong to a plain model, and how a styled model loads them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping

from torch import Tensor, nn

from ..checkpoints import Fit
from ..layers import StyleLayer
from ..surgery.attachment import replaces_norm
from ..torch_host import add_load_pre_hook, has_load_pre_hook

_logger = logging.getLogger(__name__)
_BATCH_NORM = frozenset(nn.BatchNorm2d(1).state_dict())

State = Mapping[str, Tensor]


def owner(paths: Collection[str], key: str) -> str | None:
    """The path of the style layer to which a key belongs; None if there is none."""
    while key:
        key = key.rpartition('.')[0]
        if key in paths:
            return key
    return None


def layers_of(model: nn.Module) -> dict[str, StyleLayer]:
    found = model.named_modules(remove_duplicate=False)
    return {name: module for name, module in found if isinstance(module, StyleLayer)}


def by_owner(paths: Collection[str], keys: Iterable[str]) -> dict[str, set[str]]:
    """Each path that has keys below it -> these keys, without the path."""
    below: dict[str, set[str]] = {}
    for key in keys:
        path = owner(paths, key)
        if path is not None:
            below.setdefault(path, set()).add(key[len(path) + 1 :])
    return below


def is_whole_batch_norm(names: Collection[str]) -> bool:
    counter = {'num_batches_tracked'}
    return {*names} - counter == _BATCH_NORM - counter


def is_plain(layers: Mapping[str, StyleLayer], keys: Iterable[str]) -> bool:
    """Whether a file has no tensors of attached layers, and batch norms wherever the style replaced them."""
    found = by_owner(layers, keys).items()
    return all(replaces_norm(layers[path]) and is_whole_batch_norm(names) for path, names in found)


def half_plain(layers: Mapping[str, StyleLayer], keys: Iterable[str]) -> Fit:
    """The missing and unexpected keys at the places where a file, styled elsewhere, has the base's batch norm."""
    lacks, extra = [], []
    for path, names in by_owner(layers, keys).items():
        if replaces_norm(layers[path]) and is_whole_batch_norm(names):
            own = layers[path].state_dict()
            lacks += [f'{path}.{name}' for name in own if name not in names]
            extra += [f'{path}.{name}' for name in sorted(names) if name not in own]
    return Fit(lacks, extra, [], {})


def admit_plain(model: nn.Module) -> nn.Module:
    """Let `load_state_dict(strict=True)` accept the weights of the plain model; returns the same model.

    If the weights have no tensors of the style, its layers keep their own, and an INFO line says so. A file that has
    some of these tensors must have them all, and keys of another style are refused like any unexpected keys. The hook
    does not know the value of `strict`: with `strict=False`, too, the style's keys are not listed as missing.
    """
    if not has_load_pre_hook(model, _keep_style):
        add_load_pre_hook(model, _keep_style)
    return model


def _keep_style(
    module: nn.Module,
    state: MutableMapping[str, Tensor],
    prefix: str,
    metadata: object,
    strict: bool,
    missing: list[str],
    *args: object,
) -> None:
    """The load pre-hook of `admit_plain`."""
    layers = layers_of(module)
    keys = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if not is_plain(layers, keys):
        missing += [prefix + key for key in half_plain(layers, keys).missing]
        return
    kept = dict(_kept(layers, keys)) if keys else {}
    state.update({prefix + key: value for key, value in kept.items()})
    if kept:
        methods = sorted({str(layers[path].attachment).partition('.')[0] for path in by_owner(layers, kept)})
        _logger.info(f'weights trained without {", ".join(methods)}, whose {len(kept)} tensors stay as they are')


def _kept(layers: Mapping[str, StyleLayer], keys: State) -> Iterator[tuple[str, Tensor]]:
    """The tensors of style layers that the weights of a plain model do not provide."""
    found = by_owner(layers, keys)
    tried: dict[object, list[str]] = {}  # layers of one kind lack the same tensors
    for path, layer in layers.items():
        own = layer.state_dict()
        names: Iterable[str] = own
        if replaces_norm(layer) and own:
            given = {name: keys[f'{path}.{name}'] for name in found.get(path, ())}
            kind = type(layer), *own, None, *sorted(given)
            if given and kind not in tried:
                tried[kind] = copy.deepcopy(layer).load_state_dict(given, strict=False).missing_keys
            names = tried.get(kind, ())
        yield from ((f'{path}.{name}', own[name]) for name in names)
