"""Attach style layers to a model, and take them off again.

A layer becomes a child `style` (a ModuleDict keyed by method) of the module whose output it restyles, and one forward
hook, a plain function that looks the child up, calls it: the keys of the base model never change, and a copied model
runs its own layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .layers import StyleLayer
from .methods import get_method
from .sites import NORMS, Site, find_sites

Style = str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]


def add_style(model: nn.Module, style: Style, **kwargs: Any) -> nn.Module:
    """Attach the layers of one or several style methods to a model, in place.

    Args:
        model: Any module. Sites named by stage need timm's `feature_info`, or `layer1` ... `layer4` or `stages`.
        style: A method's name; a dict with its name under `type`, optionally `sites`, and the layer's arguments; or
            a list of such names and dicts, which are applied in order.
        **kwargs: `sites` and arguments of the layer, where `style` is a single method.

    Returns:
        The same model. It is unchanged if an error is raised.

    Raises:
        ValueError: Unknown method or site, a value out of range, a site without a known number of channels, a method
            that the model has already at that site.
        TypeError: An argument that the layer does not have.
    """
    plans = [plan for spec in _as_specs(style, kwargs) for plan in _plan(model, spec)]
    taken = {(id(_owner(s.module)), method) for s, method, _ in _attached(model)}
    for plan in plans:
        key = (id(_owner(plan.site.module)), plan.method)
        if key in taken:
            raise ValueError(
                f'style method {plan.method!r} is already at {plan.site.name!r}; name the plain model, or call '
                'remove_style first'
            )
        taken.add(key)
        if isinstance(vars(_owner(plan.site.module)).get('style'), str):
            continue  # see _attach
        if not isinstance(getattr(_owner(plan.site.module), 'style', _EMPTY), nn.ModuleDict):
            raise ValueError(f'cannot attach to {plan.site.name!r}: it has an attribute `style` of its own')
    for plan in plans:
        _attach(plan)
    return model


_EMPTY = nn.ModuleDict()


@dataclass(frozen=True)
class _Plan:
    site: Site
    method: str
    layer: StyleLayer


def _as_specs(style: Style, kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    if isinstance(style, str):
        return [{'type': style, **kwargs}]
    if isinstance(style, Mapping):
        if not isinstance(style.get('type'), str):
            raise ValueError(f"a style dict names its method under 'type', got {dict(style)}")
        return [{**style, **kwargs}]
    if not isinstance(style, Sequence) or not all(isinstance(item, str | Mapping) for item in style):
        raise TypeError(f'style must be a name, a dict, or a list of them, got {style!r}')
    if kwargs:
        raise TypeError(f'with a list of methods, arguments belong into its dicts, got {sorted(kwargs)} beside it')
    return [spec for item in style for spec in _as_specs(item, {})]


def _plan(model: nn.Module, spec: Mapping[str, Any]) -> list[_Plan]:
    """All layers of one method, built but not attached."""
    spec = dict(spec)
    name = spec.pop('type')
    method = get_method(name)
    sites = spec.pop('sites', None)
    method.check_kwargs(name, spec)
    plans = []
    for site in find_sites(model, method.sites if sites is None else sites):
        if isinstance(site.module, NORMS):
            raise ValueError(
                f'style method {name!r} attaches to a module, and {site.name!r} is a norm layer, which SyncBatchNorm '
                "converters replace together with what is attached; use 'convs', stages, or names of blocks"
            )
        if site.channels is None and method.needs_channels:
            raise ValueError(f'style method {name!r}: the number of channels at {site.name!r} cannot be told')
        layer = method.layer(site.channels, **spec)
        like = next(site.module.parameters(), next(model.parameters(), None))
        if like is not None:
            layer.to(like.device, like.dtype)
        layer.label = f'{name}.{site.label}'
        layer.train(site.module.training)
        plans.append(_Plan(site, name, layer))
    return plans


def _owner(module: nn.Module) -> Any:
    """The module that holds the child `style`: a ModuleDict would run it, so that its last child holds it instead."""
    return list(module.values())[-1] if isinstance(module, nn.ModuleDict) else module


def _run_style(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook."""
    for layer in _owner(module).style.values():
        output = layer(output)
    return output


def _attach(plan: _Plan) -> None:
    owner = _owner(plan.site.module)
    if isinstance(vars(owner).get('style'), str):
        del owner.style  # mmseg's blocks keep their variant, 'pytorch' or 'caffe', there, and do not read it again
    if not hasattr(owner, 'style'):
        owner.style = nn.ModuleDict()
        plan.site.module.register_forward_hook(_run_style)
    owner.style[plan.method] = plan.layer


def _hooked(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if _run_style in module._forward_hooks.values():
            yield name, module


def _attached(model: nn.Module) -> Iterator[tuple[Site, str, StyleLayer]]:
    for name, module in _hooked(model):
        for method, layer in _owner(module).style.items():
            yield Site(layer.label, name, module, None), method, layer


def remove_style(model: nn.Module) -> nn.Module:
    """Take all attached style layers off, in place: the plain model, with its own weights, is left."""
    for _, module in list(_hooked(model)):
        del _owner(module).style
        for key in [k for k, hook in module._forward_hooks.items() if hook is _run_style]:
            del module._forward_hooks[key]
    return model


def style_layers(model: nn.Module) -> Iterator[tuple[str, StyleLayer]]:
    """All style layers with their labels: 'snr.stage1'; for a layer that was not attached, its module name."""
    for name, module in model.named_modules():
        if isinstance(module, StyleLayer):
            yield module.label or '.'.join(filter(None, [type(module).__name__.lower(), name])), module


def style_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names, as in `model.named_parameters()`, and parameters of all style layers."""
    for name, module in model.named_modules():
        if isinstance(module, StyleLayer):
            yield from module.named_parameters(prefix=name)


def style_losses(model: nn.Module, target: Tensor | None = None, ignore_index: int = 255) -> dict[str, Tensor]:
    """Take the weighted auxiliary losses that the layers left in the last training forward.

    Args:
        model: Any module that contains style layers.
        target: Labels for the terms that need them: class indices (N,), class probabilities (N, K), or, for dense
            layers, label maps (N, H, W) at any resolution. Without it those terms are left out.
        ignore_index: Label that counts nowhere.

    Returns:
        Scalars by label: `{'snr.stage1': ..., 'snr.stage3.ce': ...}`; empty where no layer has a loss. Where a label
        comes again, as in a model of two styled networks, a number is appended: 'snr.stage1#2'.
    """
    losses: dict[str, Tensor] = {}
    deepest: dict[tuple[type, int], tuple[str, StyleLayer]] = {}
    seen: Counter[str] = Counter()
    for label, layer in style_layers(model):
        seen[label] += 1
        if seen[label] > 1:
            label = f'{label}#{seen[label]}'
        if layer.aux is not None:
            losses[label] = layer.aux
        if layer.logits is not None:
            deepest[type(layer), seen[label.partition('#')[0]]] = (label, layer)
    for label, layer in deepest.values():
        if target is not None:
            losses[f'{label}.ce'] = layer.ce_weight * _cross_entropy(layer.logits, target, ignore_index)  # type: ignore
    for _, layer in style_layers(model):
        layer.aux = layer.logits = None
    return losses


def check_heads(model: nn.Module, num_classes: int, dense: bool) -> None:
    """For a host that knows its labels: that the class heads of the style layers fit them.

    Raises:
        ValueError: A head with another number of classes, or an image head where labels are maps, or the other way.
    """
    for label, layer in style_layers(model):
        head: Any = getattr(layer, 'head', None)
        if head is not None and (head.out_features != num_classes or layer.dense != dense):
            raise ValueError(
                f'{label}: its loss has num_classes={head.out_features}, dense={layer.dense}, and this model '
                f'num_classes={num_classes}, dense={dense}: correct `style`'
            )


def _cross_entropy(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    if target.dim() == 3 and logits.dim() == 4:
        target = F.interpolate(target[:, None].float(), logits.shape[2:], mode='nearest')[:, 0].long()
    if target.is_floating_point():
        return F.cross_entropy(logits.float(), target)
    if logits.shape[2:] != target.shape[1:]:
        raise ValueError(
            f'style_losses: logits {tuple(logits.shape)} and labels {tuple(target.shape)} do not fit; '
            'image labels need dense=False, label maps dense=True'
        )
    # a sum over the counted labels, so that a batch without any gives 0 and not NaN
    total = F.cross_entropy(logits.float(), target, ignore_index=ignore_index, reduction='sum')
    return total / (target != ignore_index).sum().clamp(min=1)
