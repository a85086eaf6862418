"""Attach style layers to a model or replace its norm layers by them, and remove them again.

A layer goes into the child `style` (`Attachments`, by method) of the module whose output it restyles. A forward hook,
a plain function that looks up this child, calls it: the keys of the base model never change, and a copied model runs
its own layers. A layer that replaces a norm layer takes its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers import NormLayer, StyleLayer
from ..layers.norms import dim_of
from ..methods import Method, Placement, get_method
from .attachment import Attachment, Attachments, attachments_of_model, replaces_norm
from .context import override_attr
from .hooks import attach, detach_all, owner_of, replace, slots_open
from .layouts import Unchecked, reached, settle
from .meta import dim_of_images
from .probe import Arrivals, probe
from .site import Site, warn_of_containers
from .sites import find_sites, sites_within
from .structure import is_batch_norm, norms_after

Style = str | Mapping[str, object] | Sequence[str | Mapping[str, object]]


def add_style(model: nn.Module, style: Style, **kwargs: object) -> nn.Module:
    """Attach the layers of one or several style methods to a model, in place, or replace its norm layers by them.

    Args:
        model: A module. Sites named by stage need timm's `feature_info`, or `layer1` ... `layer4` or `stages`.
        style: A method's name; a dict with its name under `type`, optionally `sites`, and the layer's arguments; or
            a list of such names and dicts, which are applied in order. If a model does not say itself that it passes
            tokens or channels-last maps, say so by `channel_dim=-1` and `prefix_tokens`. With `frozen=True`, added
            layers do not train at frozen places, nor act at places in evaluation mode; by default they do.
        **kwargs: `sites` and arguments of the layer, if `style` is a single method.

    Returns:
        The same model. It is unchanged if an error is raised.

    Raises:
        ValueError: Unknown method or site, a value out of range, a site without a known number of channels, a method
            that the model already has at that site, two methods that would replace the same norm layer; what arrives
            at a site is not one map, or tokens, of the images. A probing forward pass on the meta device determines
            channels and layout. If it cannot run (the model has several inputs, or reads values), the model's first
            forward pass raises this error instead.
        TypeError: An argument that the layer does not have.
    """
    return _add(model, [_request(model, spec) for spec in as_specs(style, kwargs)])


def replace_norms(model: nn.Module, method: str, names: Sequence[str]) -> nn.Module:
    """Replace the batch norms with these names by layers of a method, in place; see `add_style`."""
    sites = [Site(name, name, model.get_submodule(name), None, 'replace') for name in names]
    return _add(model, [_Request(method, get_method(method), sites)])


def _add(model: nn.Module, requests: Sequence[_Request]) -> nn.Module:
    sites = [site for request in requests for site in request.sites]
    with slots_open(model, sites):
        seen = probe(model, sites)
        plans = [plan for request in requests for plan in _plan(model, request, seen)]
        taken: dict[Any, str] = {(owner, name): name for owner, style in attachments_of_model(model) for name in style}
        for plan in plans:
            _check(plan, taken)
        for plan in plans:
            if plan.site.where != 'replace':
                attach(plan.site, plan.method, plan.layer)
        replace(model, {plan.site.module: plan.layer for plan in plans if plan.site.where == 'replace'})
    warn_of_containers([plan.site for plan in plans])
    return model


class _Request(NamedTuple):
    """One method, and the sites requested for it."""

    method: str
    row: Method
    sites: list[Site]
    layout: Mapping[str, object] = MappingProxyType({})
    kwargs: Mapping[str, object] = MappingProxyType({})
    frozen: bool = False
    chosen: bool = True


class _Plan(NamedTuple):
    site: Site
    method: str
    layer: StyleLayer


def as_specs(style: Style, kwargs: Mapping[str, object]) -> list[dict[str, Any]]:
    """One dict for each method, with its name under `type`."""
    if 'type' in kwargs:
        raise TypeError(f'style names its method already, and type={kwargs["type"]!r} is given beside it')
    if isinstance(style, str):
        return [{'type': style, **kwargs}]
    if isinstance(style, Mapping):
        if not isinstance(style.get('type'), str):
            raise ValueError(f"a style dict names its method under 'type', got {dict(style)}")
        return [{**style, **kwargs}]
    if not isinstance(style, Sequence) or not all(isinstance(item, str | Mapping) for item in style):
        raise TypeError(f'style must be a name, a dict, or a list of them, got {style!r}')
    if not style:
        raise ValueError(f'style names no method, got {style!r}')
    if kwargs:
        raise TypeError(f'with a list of methods, arguments belong into its dicts, got {sorted(kwargs)} beside it')
    return [spec for item in style for spec in as_specs(item, {})]


def _request(model: nn.Module, spec: Mapping[str, Any]) -> _Request:
    kwargs = dict(spec)
    name = kwargs.pop('type')
    method = get_method(name)
    method.check_kwargs(name, kwargs)
    names = kwargs.pop('sites', None)
    frozen = kwargs.pop('frozen', False)
    if not isinstance(frozen, bool):
        raise ValueError(f'style method {name!r}: frozen must be true or false, got {frozen!r}')
    layout: dict[str, Any] = {k: kwargs.pop(k) for k in ('channel_dim', 'prefix_tokens') if k in kwargs}
    if layout.get('channel_dim', 1) not in (1, -1):
        raise ValueError(f'style method {name!r}: channel_dim must be 1 or -1, got {layout["channel_dim"]!r}')
    names = sites_within(model, method.sites) if names is None else names
    names = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    for site in names:
        if not isinstance(site, str):
            raise ValueError(f'style method {name!r}: a site is a name, got {site!r}; list_sites(model) lists them')
    sites = find_sites(model, names, tokens='channel_dim' in layout)
    declared = [site if site.where == 'replace' else dataclasses.replace(site, **layout) for site in sites]
    return _Request(method.layers_of or name, method, declared, layout, kwargs, frozen, spec.get('sites') is not None)


def _plan(model: nn.Module, request: _Request, seen: Mapping[tuple[str, str], Arrivals] | None) -> list[_Plan]:
    """All layers of one method, built but not put into the model."""
    name, method, dim = request.method, request.row, dim_of_images(model)
    plans = []
    for site in reached(request.sites, seen, request.chosen):
        replaces = site.where == 'replace'
        _check_placement(name, method, site, dim)
        unchecked, arrivals = None, (seen or {}).get((site.name, site.where))
        if arrivals is not None:
            site = settle(site, arrivals, 'channel_dim' in request.layout, 'prefix_tokens' in request.layout)
        elif not replaces:
            layout = site.channels, site.channel_dim, site.prefix_tokens
            unchecked = Unchecked(site.label, site.name, *layout, told=bool(request.layout), dim=dim)
        if replaces:
            kind: Any = method.layer
            layer = kind.forms.get(dim_of(site.module, dim), kind).from_norm(site.module, **request.kwargs)
        else:
            layer = _addition(model, name, request, site)
        if request.frozen:
            _follow(layer, site.module)
        elif not replaces:
            layer.train(model.training)
        record = Attachment(name, site.label, site.name, site.where, recipe=method.recipe, unchecked=unchecked)
        record.frozen = request.frozen or method.norms_after is not None  # a cut's layer is frozen with what is before
        layer.attachment = record
        layer.channel_dim, layer.prefix_tokens = site.channel_dim, site.prefix_tokens
        layer.waits_for = 'recipe' if method.recipe else layer.waits_for
        plans.append(_Plan(site, name, layer))
    method.layer.configure_group([plan.layer for plan in plans])
    if method.norms_after is not None:
        after = norms_after(model, plans[0].site.module)
        sites = [Site(path, path, norm, None, 'replace') for path, norm in after]
        row = dataclasses.replace(get_method(method.norms_after), recipe=method.recipe)
        plans += _plan(model, _Request(method.norms_after, row, sites), None)
    return plans


def _check_placement(name: str, method: Method, site: Site, dim: int) -> None:
    if site.where != 'replace':
        if method.placement is Placement.REPLACE:
            raise ValueError(
                f'style method {name!r} replaces norm layers, and {site.name!r} is {type(site.module).__name__}; use '
                "'batch_norms', 'norms', 'stage1.norm1', or names of norm layers"
            )
        return
    if method.placement is Placement.INSERT:
        use = "'blocks.residual', 'convs', stages, or names of blocks"
        raise ValueError(f'style method {name!r} replaces no norms, and {site.name!r} is a norm layer; use {use}')
    if isinstance(site.module, NormLayer):
        other = str(site.module.attachment or type(site.module).__name__).partition('.')[0]
        if other == name:
            raise ValueError(f'style method {name!r} is already at {site.name!r}; build the plain model')
        raise ValueError(_both_replace(other, name, site))
    if not is_batch_norm(site.module, dim):
        kind = type(site.module).__name__
        raise ValueError(f'style method {name!r} replaces batch norm, and {site.name!r} is {kind}')


def _addition(model: nn.Module, name: str, request: _Request, site: Site) -> StyleLayer:
    if site.channels is None and request.row.needs_channels:
        raise ValueError(f'style method {name!r}: the number of channels at {site.name!r} cannot be told')
    with torch.device('cpu'):  # whatever device models are built on
        layer = request.row.layer(site.channels, **request.kwargs)
    like = next(site.module.parameters(), next(model.parameters(), None))
    if like is not None:
        layer.to(like.device, like.dtype)
    return layer


def _follow(layer: StyleLayer, module: nn.Module) -> None:
    """Make a layer as frozen as the module at its place."""
    layer.train(module.training)
    learning = [p.requires_grad for p in module.parameters()]
    if learning and not any(learning):
        layer.requires_grad_(False)


def _both_replace(first: str, second: str, site: Site) -> str:
    return f'style methods {first!r} and {second!r} both replace the norm layer {site.name!r}; choose one'


def _check(plan: _Plan, taken: dict[object, str]) -> None:
    """Raise a ValueError if the place of a plan is taken; otherwise take it."""
    module = plan.site.module
    if plan.site.where == 'replace':
        if module in taken:
            raise ValueError(_both_replace(taken[module], plan.method, plan.site))
        taken[module] = plan.method
        return
    owner = owner_of(module)
    if (owner, plan.method) in taken:
        raise ValueError(
            f'style method {plan.method!r} is already at {plan.site.name!r}; name the plain model, or call '
            'remove_style first'
        )
    taken[owner, plan.method] = plan.method
    own = getattr(owner, 'style', None)
    if own is not None and not isinstance(own, str | Attachments):  # for the string see `attach`
        raise ValueError(f'cannot attach to {plan.site.name!r}: it has an attribute `style` of its own')


def remove_style(model: nn.Module) -> nn.Module:
    """Remove all style layers, in place: the plain model, with its own weights, is left.

    `BatchInstanceNorm2d` becomes batch norm again and loses its gates.

    Raises:
        ValueError: A layer replaced a batch norm and has not kept its statistics. The model is unchanged then.
    """
    replaced = [(k, m) for k, m in model.named_modules() if replaces_norm(m)]
    for name, layer in replaced:
        if not hasattr(layer, 'to_norm'):
            raise ValueError(
                f'remove_style: {layer.attachment} replaced the batch norm {name!r} and has not kept its statistics; '
                'build the plain model'
            )
    replace(model, {layer: layer.to_norm() for _, layer in replaced})
    detach_all(model)
    return model


@contextmanager
def style_disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within, all style layers of a model are switched off: `with style_disabled(model): ...`.

    They are then the identity, and batch-instance norm is batch norm. Layers that replaced a batch norm and did not
    keep its statistics (IBN, DomainNorm, the instance norm of a stem) stay on, since nothing could take their place.
    """
    with override_attr([layer for _, layer in style_layers(model)], 'enabled', False):
        yield model


def style_layers(model: nn.Module) -> Iterator[tuple[str, StyleLayer]]:
    """All style layers with their labels: 'snr.stage1'; for a layer that was not attached, its type and module name."""
    for name, module in model.named_modules():
        if isinstance(module, StyleLayer):
            yield str(module.attachment or '') or '.'.join(filter(None, [type(module).__name__.lower(), name])), module


def set_domains(model: nn.Module, domains: Sequence[object] | Tensor | None) -> None:
    """Tell the layers that mix images of different domains (`mix='crossdomain'`) which domain each image belongs to.

    Args:
        model: A module that contains style layers.
        domains: A label of any type for each image of the next batch; None: its halves count as two domains.
    """
    if domains is not None and not isinstance(domains, Tensor):
        known = list(dict.fromkeys(domains))
        domains = torch.tensor([known.index(label) for label in domains])
    layers: list[Any] = [layer for _, layer in style_layers(model) if hasattr(layer, 'domains')]
    for layer in layers:
        layer.domains = domains


def style_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names, as in `model.named_parameters()`, and parameters of all style layers."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, StyleLayer)]
    yield from dict(pair for name, layer in layers for pair in layer.named_parameters(prefix=name)).items()
