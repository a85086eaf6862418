"""timm names: `<arch>_<method>` builds the base model with its own weights, then attaches the method."""

from __future__ import annotations

import fnmatch
import gc
from collections.abc import Iterable, Mapping

from torch import nn

from ..errors import unknown
from ..host import HAS_TIMM, architectures, copy_pretrained_cfgs
from ..installed import require
from ..layers import StyleLayer
from ..methods import ROWS, Method, Placement, add_method, get_method
from ..surgery.add import Style, as_specs

if HAS_TIMM:
    from timm.models import is_model, model_entrypoint, register_model


__all__: list[str] = []  # every registered name

default_cfgs: dict[str, object] = {}

# The convolutional families in which every stage is a module of its own, by what their structure offers besides stages:
# blocks, batch norms, and an activation after the residual sum. `register_variants` adds more names.
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
        pattern: The name of a timm architecture, or a glob over such names ('convnext_*').
        methods: Names of methods and recipes; all by default.

    Returns:
        The names that now exist for this pattern, both new and old.

    Raises:
        ValueError: No architecture matches, or a method is unknown.
        ModuleNotFoundError: timm is not installed.
    """
    require('timm', 'register_variants')
    chosen = list(ROWS) if methods is None else list(methods)
    for method in chosen:
        get_method(method)
    known = [a for a in architectures() if a not in default_cfgs]
    bases = [pattern] if pattern in known else fnmatch.filter(known, pattern)
    if not bases:
        raise ValueError(unknown('timm architecture', pattern, known))
    names = []
    for base in sorted(bases):
        for method in chosen:
            name = f'{base}_{method}'
            if name not in default_cfgs:
                _register(base, method, name)
            names.append(name)
    return names


def register_method(
    name: str,
    layer: type[StyleLayer],
    sites: Iterable[str],
    placement: Placement = Placement.INSERT,
    companions: Iterable[str] = (),
    summary: str = '',
    paper: str = '',
) -> list[str]:
    """Add a style method of your own to `add_style`, `list_methods`, timm's names and mmseg's plugins.

    Args:
        name: An identifier, 'mystyle'.
        layer: A subclass of `layers.StyleLayer` with `restyle(x)`, whose first argument is the number of channels; a
            subclass of `layers.NormLayer` if it replaces batch norms.
        sites: Default sites, see `list_sites`.
        placement: Whether it follows modules (`Placement.INSERT`) or takes the place of norms.
        companions: Keys of `layers.companions.COMPANIONS` that the layer needs.
        summary: One line for the table of methods.
        paper: Authors, venue and arXiv number.

    Returns:
        The new timm names, if timm is installed: '<arch>_<name>' for architectures that have the default sites.

    Raises:
        ValueError: The name is taken or not an identifier, or the layer, sites, placement or companions are not valid.
            Nothing is registered then.
    """
    add_method(name, Method(layer, _as_sites(sites), summary, paper, placement, tuple(companions)))
    return _register_families([name])


def _as_sites(sites: Iterable[str]) -> tuple[str, ...]:
    return (sites,) if isinstance(sites, str) else tuple(sites)


def _register(base: str, method: str, name: str) -> None:
    def entrypoint(pretrained: bool = False, style: Style | None = None, **kwargs: object) -> nn.Module:
        from .pretrained import build  # the import of names does not need it

        specs = as_specs({'type': method, **(style or {})} if isinstance(style, Mapping | None) else style, {})
        for spec in specs:
            get_method(spec['type']).check_kwargs(spec['type'], spec)
        types = [spec['type'] for spec in specs]
        if method not in types:
            raise ValueError(f'{name} is {method!r}; a style of {types} belongs to another model')
        return build(model_entrypoint(base), (base, name), specs, pretrained, kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = __name__
    paper = ROWS[method].paper
    takes = '`style` takes its arguments and `sites`, or what `add_style` takes, with more methods.'
    entrypoint.__doc__ = f'{base} with {method}, {paper}; {takes}'
    names, globals()['__all__'] = __all__, []  # register_model searches this list, which would take quadratic time
    register_model(entrypoint)
    globals()['__all__'] = names
    names.append(name)
    default_cfgs[name] = copy_pretrained_cfgs(base, name)


def _fits(method: Method, offers: tuple[str, ...]) -> bool:
    """Whether the default sites of a method exist in a family."""
    needs = {'norm1': {'blocks', 'batch_norms'}, 'norm': {'batch_norms'}, 'sum': {'sum'}}
    parts = [{site} & {'blocks', 'batch_norms'} | needs.get(site.partition('.')[2], set()) for site in method.sites]
    return set().union(*parts) <= {*offers}


def _register_families(methods: Iterable[str]) -> list[str]:
    """Register names for the families that have the default sites, except architectures that this timm lacks."""
    names: list[str] = []
    for offers, patterns in _FAMILIES.items() if HAS_TIMM else ():
        fitting = [name for name in methods if _fits(ROWS[name], offers)]
        for pattern in patterns:
            if fitting and ('*' in pattern or '?' in pattern or is_model(pattern)):
                names += register_variants(pattern, fitting)
    return names


_collects = gc.isenabled()
gc.disable()  # thousands of new objects would make it scan everything that torch and timm have loaded
try:
    _register_families(list(ROWS))
finally:
    if _collects:
        gc.enable()
