"""timm names: `<arch>_<method>` builds the base model with its own weights, then attaches the method."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from timm.models import DefaultCfg, is_model, model_entrypoint, register_model
from torch import nn

from ..errors import unknown
from ..host import architectures, copy_pretrained_cfgs
from ..methods import METHODS, Method, get_method
from .pretrained import build

__all__: list[str] = []  # every registered name

default_cfgs: dict[str, DefaultCfg] = {}

# The convolutional families in which every stage is a module of its own, by what their structure offers beside stages:
# blocks, batch norms, and an activation behind the residual sum. More names by `register_variants`.
_FAMILIES = {
    ('blocks', 'batch_norms', 'sum'): (
        'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'wide_resnet*_2', 'resnext50_32x4d',
        'resnext101_32x4d', 'resnext101_32x8d', 'resnext101_64x4d', 'seresnet18', 'seresnet34', 'seresnet50',
        'seresnet101', 'seresnet152', 'seresnext50_32x4d', 'seresnext101_32x4d', 'regnetx_*', 'regnety_*',
    ),
    ('blocks', 'batch_norms'): (
        'densenet1*', 'efficientnet_b?', 'efficientnet_lite?', 'efficientnetv2_s', 'mobilenetv3_large_100',
        'mobilenetv3_small_100', 'mobilenetv4_conv_*', 'resnetv2_50', 'resnetv2_101',
    ),
    ('batch_norms',): ('vgg??_bn', 'dla34', 'dla60', 'dla102', 'dla169'),
    ('blocks',): (
        'convnext_atto', 'convnext_femto', 'convnext_pico', 'convnext_nano', 'convnext_tiny', 'convnext_small',
        'convnext_base', 'convnext_large',
    ),
}  # fmt: skip


def register_variants(pattern: str, methods: Iterable[str] | None = None) -> list[str]:
    """Register `<arch>_<method>` with timm for more architectures.

    Args:
        pattern: An architecture of timm, or a glob over their names ('convnext_*').
        methods: Names of methods; all of the table by default.

    Returns:
        The names that exist now for this pattern, new ones and old.

    Raises:
        ValueError: No architecture matches, or an unknown method.
    """
    chosen = list(METHODS) if methods is None else list(methods)
    for method in chosen:
        get_method(method)
    matches = [pattern] if pattern in architectures() else fnmatch.filter(architectures(), pattern)
    bases = [a for a in matches if a not in default_cfgs]
    if not bases:
        raise ValueError(unknown('timm architecture', pattern, (a for a in architectures() if a not in default_cfgs)))
    names = []
    for base in sorted(bases):
        for method in chosen:
            name = f'{base}_{method}'
            if name not in default_cfgs:
                _register(base, method, name)
            names.append(name)
    return names


def _register(base: str, method: str, name: str) -> None:
    def entrypoint(pretrained: bool = False, style: Mapping[str, Any] | None = None, **kwargs: Any) -> nn.Module:
        if not isinstance(style, Mapping | None):
            raise TypeError(f'{name}: style takes a dict of arguments of {method!r} and `sites`, got {style!r}')
        options = {'type': method, **(style or {})}
        METHODS[method].check_kwargs(method, options)
        if options['type'] != method:
            raise ValueError(f'{name} is {method!r}; style=dict(type={options["type"]!r}) belongs to another model')
        return build(model_entrypoint(base), (base, name), options, pretrained, kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    entrypoint.__doc__ = f'{base} with {method}, {METHODS[method].paper}; `style` takes its arguments and `sites`.'
    names, globals()['__all__'] = __all__, []  # register_model searches this list, which would take quadratic time
    register_model(entrypoint)
    globals()['__all__'] = names
    names.append(name)
    default_cfgs[name] = copy_pretrained_cfgs(base, name)


def _methods_for(offers: tuple[str, ...]) -> list[str]:
    """The methods whose default sites exist in a family."""
    needs = {'norm1': {'blocks', 'batch_norms'}, 'norm': {'batch_norms'}, 'sum': {'sum'}}

    def fits(method: Method) -> bool:
        parts = [{site} & {'blocks', 'batch_norms'} | needs.get(site.partition('.')[2], set()) for site in method.sites]
        return set().union(*parts) <= {*offers}

    return [name for name, method in METHODS.items() if fits(method)]


for _offers, _patterns in _FAMILIES.items():
    for _pattern in _patterns:
        if '*' in _pattern or '?' in _pattern or is_model(_pattern):  # a name that this timm does not have is left out
            register_variants(_pattern, _methods_for(_offers))
