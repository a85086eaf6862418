"""Weights for styled models: timm reads and adapts the part of the base model, we load the part of the style.

timm loads pretrained weights inside the base's entry point, before there is a style. The weights that a user names (a
file, a state dict, a folder, a repository of the hub) may belong to a plain model or to one with this style; their keys
tell which. The base's part goes through timm's own path, with the key filter, the head, the input channels and the
strictness of the family; the style and its tensors are added afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg, load_pretrained, resolve_pretrained_cfg
from torch import Tensor, nn

from ..checkpoints import Fit, compare
from ..surgery.add import Style, add_style
from ..surgery.companions import training_only_keys
from ..surgery.describe import describe_style
from ..surgery.structure import batch_norms
from .plain import State, admit_plain, by_owner, half_plain, is_plain, is_whole_batch_norm, layers_of, owner

_logger = logging.getLogger(__name__)
_SOURCES = ('state_dict', 'file', 'hf_hub_id', 'url')  # of a pretrained cfg, in the order in which timm checks them
_OF_FEATURES = ('features_only', 'out_indices', 'feature_cls')  # arguments that wrap the model in an extractor
_ATTACHED = '.style.'  # in every key of an attached layer


def build(
    create: Callable[..., nn.Module],
    names: tuple[str, str],
    style: Sequence[Mapping[str, object]],
    pretrained: bool,
    kwargs: Mapping[str, Any],
) -> nn.Module:
    """A model with a style, and with weights if requested.

    Args:
        create: The entry point of the base model.
        names: The name of the base in timm's registry, and the name of the model that is built.
        style: A dict for each method, as `add_style` takes them.
        pretrained: Whether to load weights: those of the registry, or those that `pretrained_cfg` or
            `pretrained_cfg_overlay` name.
        kwargs: Further arguments of `create`.

    Raises:
        ValueError: The named weights belong to another style, to a style with other arguments, or to a styled model of
            another architecture. Only a reference model for the comparison has been built then.
    """
    methods = ', '.join(str(spec['type']) for spec in style)
    if not pretrained:
        return _finish(add_style(create(pretrained=False, **kwargs), style), names[1])
    cfg = resolve_pretrained_cfg(names[0], kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
    named = _names_weights(kwargs)
    if cfg.custom_load or not named:  # weights of the registry, or in a foreign format, are always plain
        model = add_style(create(pretrained=True, **kwargs), style)
        source = _source(cfg) if named else '.'.join(filter(None, [names[0], cfg.tag]))
        _logger.info(f'weights of {source}, trained without {methods}')
        return _finish(model, names[1])
    file = _read(cfg, kwargs.get('cache_dir'))
    source = _source(cfg)
    overlay: dict[str, object] = {**(kwargs.get('pretrained_cfg_overlay') or {}), 'state_dict': None}
    with torch.random.fork_rng(devices=[]):
        reference = _Reference(create, {**kwargs, 'pretrained_cfg_overlay': overlay}, style, cfg.classifier)
    styled = reference.fits_style(file)
    part = reference.take(file, f'{source} does not fit {names[1]}') if styled else file
    if not styled:
        reference.refuse_other_styles(file, f'{source} is no plain model, and not of the style of {names[1]}')
    overlay |= {'state_dict': dict(part), 'source': None, 'custom_load': False}
    model = add_style(create(pretrained=True, **{**kwargs, 'pretrained_cfg_overlay': overlay}), style)
    if styled:
        reference.give(model)
    published = isinstance(kwargs.get('pretrained_cfg'), Mapping) and bool(cfg.source)  # under the name of this model
    history = f'trained with{"" if styled or not reference.has_tensors else "out"} {methods}'
    if not (reference.has_tensors or published):
        history = f'with or without {methods}, which has no tensors of its own'
    _logger.info(f'weights of {source}, {history}')
    return _finish(model, names[1], {key: getattr(cfg, key) for key in ('state_dict', 'source', 'custom_load')})


def _finish(model: nn.Module, name: str, entries: Mapping[str, object] | None = None) -> nn.Module:
    """Write the model's name and the source of its weights into its cfgs, which timm saves, and log its style."""
    _logger.info(describe_style(model))
    for module in model.modules():
        for attribute in ('pretrained_cfg', 'default_cfg'):
            cfg = vars(module).get(attribute)
            if isinstance(cfg, dict):
                kept = {key: value for key, value in cfg.items() if not entries or key not in entries}
                kept |= {key: value for key, value in (entries or {}).items() if value is not None}
                setattr(module, attribute, {**kept, 'architecture': name})
    return admit_plain(model)


def _names_weights(kwargs: Mapping[str, object]) -> bool:
    """Whether the caller, not the registry, says where the weights are."""
    given = (kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
    entries = [
        value if isinstance(value, Mapping) else vars(value) for value in given if value and not isinstance(value, str)
    ]
    return any(entry.get(key) for entry in entries for key in _SOURCES)


def _source(cfg: PretrainedCfg) -> str:
    """What to call the weights in messages."""
    if cfg.source == 'local-dir':
        return f'local-dir:{cfg.file}'
    key = 'hf_hub_id' if cfg.source == 'hf-hub' else next(key for key in _SOURCES if getattr(cfg, key))
    value = getattr(cfg, key)
    return {'state_dict': 'the given state dict', 'hf_hub_id': f'hf-hub:{value}'}.get(key, str(value))


class _Reader(nn.Module):
    """Stands in for a model when timm loads weights, and keeps these."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: object, **kwargs: object) -> object:
        self.found = dict(state_dict)
        return super().load_state_dict({}, strict=False)


def _read(cfg: PretrainedCfg, cache_dir: str | Path | None) -> dict[str, Tensor]:
    """The weights that a pretrained cfg names, as timm reads them, before it adapts them."""
    reader = _Reader()
    load_pretrained(reader, {**cfg.to_dict(), 'first_conv': None, 'classifier': None}, cache_dir=cache_dir)
    return reader.found


class _Reference:
    """A model built without weights, with which a file is compared and which converts the style's tensors.

    Attributes:
        paths: Its style layers, by path.
        has_tensors: Whether the style adds tensors, or removes some of the base.
    """

    def __init__(
        self,
        create: Callable[..., nn.Module],
        kwargs: Mapping[str, object],
        style: Style,
        classifier: str | Sequence[str] | None,
    ) -> None:
        self.model = create(pretrained=False, **{k: v for k, v in kwargs.items() if k not in _OF_FEATURES})
        self.plain = dict(self.model.state_dict())
        self.norms = {name for name, _ in batch_norms(self.model)}
        add_style(self.model, style)
        self.paths = layers_of(self.model)
        self.has_tensors = self.model.state_dict().keys() != self.plain.keys()
        heads = [classifier] if isinstance(classifier, str) else classifier or ()
        self.head = {f'{head}.{name}' for head in heads for name in ('weight', 'bias')}

    def fits_style(self, file: State) -> bool:
        """Whether a file belongs to a model with a style at these places; `take` checks whether it is this style."""
        return not is_plain(self.paths, file) or bool(self._norms_without_tensors(self.paths, file))

    def _norms_without_tensors(self, places: Collection[str], file: State) -> list[str]:
        """Norms of which a file has no keys, although it has all other keys of the base, under the base's names."""
        found = by_owner(places, file)
        rest = [key for key in self.plain if owner(places, key) is None and key not in self.head]
        if not all(key in file for key in rest):
            return []
        return [path for path in self.norms if path in places and path not in found]

    def take(self, file: State, what: str) -> dict[str, Tensor]:
        """Load the style's tensors of a file into the reference, and return a complete state dict of the base.

        In it, norms that the style replaced have their initial values, or those of the file if it has the same keys:
        `give` loads the style's tensors later.

        Raises:
            ValueError: Tensors are missing, unexpected, or of another shape; the message starts with `what`.
        """
        own = {key: value for key, value in file.items() if owner(self.paths, key) is not None}
        shapes = self.model.state_dict()
        passing = training_only_keys(self.model)
        left = [k for k in own if k in passing and (k not in shapes or shapes[k].shape != own[k].shape)]
        own = {key: value for key, value in own.items() if key not in left}
        common = compare({key: shapes[key] for key in own if key in shapes}, own)
        if common.reshaped:
            raise ValueError(f'{what}: {Fit([], [], common.reshaped, common.shapes)}')
        found = self.model.load_state_dict(own, strict=False)
        missing = {key for key in found.missing_keys if owner(self.paths, key) is not None and key not in passing}
        half = half_plain(self.paths, file)
        base = {key: value for key, value in file.items() if key not in own and key not in left}
        mine = {key: value for key, value in self.plain.items() if owner(self.paths, key) is None}
        fit = compare(mine, base, self.head)
        lacks = sorted({*fit.missing, *missing, *half.missing})
        extra = [*found.unexpected_keys, *fit.unexpected, *half.unexpected]
        if lacks or extra:
            raise ValueError(f'{what}: {Fit(lacks, extra, [], {})}')
        if left:
            _logger.info(f'left out, since only training needs them and the model has no place: {", ".join(left)}')
        replaced = {key: value for key, value in self.plain.items() if key not in mine}
        return {**base, **replaced, **{key: value for key, value in own.items() if key in replaced}}

    def refuse_other_styles(self, file: State, what: str) -> None:
        """Raise a ValueError that starts with `what` if a file has tensors of a style, or lacks some for its norms.

        Other keys that the model does not have are left to timm, which may know how to rename them.
        """
        extra = [key for key in file if _ATTACHED in f'.{key}']
        missing = []
        found = by_owner(self.norms, file) | {path: set() for path in self._norms_without_tensors(self.norms, file)}
        for path, names in found.items():
            if not is_whole_batch_norm(names):
                wanted = {key.removeprefix(f'{path}.') for key in self.plain if owner({path}, key)}
                missing += [f'{path}.{name}' for name in sorted(wanted - names - {'num_batches_tracked'})]
                extra += [f'{path}.{name}' for name in sorted(names - wanted)]
        if extra or missing:
            raise ValueError(f'{what}: {Fit(missing, extra, [], {})}')

    def give(self, model: nn.Module) -> None:
        """Load the style's tensors into a model, possibly a feature extractor with other names for the same modules."""
        state = {_flat(key): value for key, value in self.model.state_dict().items() if owner(self.paths, key)}
        paths = layers_of(model)
        whole = model.state_dict()  # torch 2.1 sets missing batch counters to zero
        whole.update({key: state[_flat(key)] for key in whole if owner(paths, key) is not None})
        model.load_state_dict(whole, strict=False)


def _flat(key: str) -> str:
    """A form of a key that is the same for a model and for its feature extractors."""
    return key.removeprefix('model.').replace('.', '_')
