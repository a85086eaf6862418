"""The plain formula of the kernel, which torch differentiates, and helpers of the routes with their own gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from . import backend
from .backend import widen

Rule = Callable[..., tuple[Tensor, ...]]


def call(rule: Rule, mean: Tensor, var: Tensor, tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Call the rule in the dtype of `mean`, outside autocast; scale and level become (N, C), extras get `dtype`."""
    with backend.outside_autocast(mean):
        tensors = [t.to(mean.dtype) if t.is_floating_point() else t for t in tensors]
        scale, level, *extras = rule(mean, var, *tensors)
    return scale.expand_as(mean), level.expand_as(mean), *(e.to(dtype) for e in extras)


def plain_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(widen(x), dim=tuple(range(2, x.dim())), correction=0)
    return mean, var


def plain_restyle(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (widen(x) * backend.spatial(x, scale) + backend.spatial(x, shift)).to(x.dtype)


def plain(x: Tensor, rule: Rule, through_moments: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The kernel as a formula; float32 throughout if the graph is exported, as another runtime may lack float64."""
    mean, var = plain_moments(x if through_moments else x.detach())
    if backend.is_exporting() or torch.jit.is_tracing():
        scale, level, *extras = call(rule, mean, var, tensors, mean.dtype)
        return plain_restyle(x, scale, level - mean * scale), *extras
    small = backend.precise(mean)
    scale, level, *extras = call(rule, small, backend.precise(var), tensors, mean.dtype)
    centre = mean.detach()
    level = level + (centre - small) * scale  # adds 0, but carries the gradient of the mean
    y = plain_restyle(widen(x) - backend.spatial(x, centre), scale.to(mean.dtype), level.to(mean.dtype))
    return y.to(x.dtype), *extras


class Context(Protocol):
    """The context that torch passes to `forward` and `backward` of a `Function`."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class RuleContext(Context, Protocol):
    rule: Rule
    through_moments: bool
    constant: bool


class Functions(NamedTuple):
    """The functions of a route that computes its own gradients."""

    moments: type[torch.autograd.Function]
    restyle: type[torch.autograd.Function]
    centred_affine: type[torch.autograd.Function]


def small_grads(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """`torch.autograd.grad` that skips outputs without a gradient and inputs that need none; the graph is retained."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
    wanted = [i for i in inputs if i.requires_grad]
    if not pairs or not wanted:
        return [None] * len(inputs)
    outputs, grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, grads, retain_graph=True, allow_unused=True))
    return [next(found) if i.requires_grad else None for i in inputs]


def differentiable_grads(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], needs: Sequence[bool], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """The gradients of the inputs that need one, through a plain formula, for `create_graph=True`."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
    wanted = [i for i, need in zip(inputs, needs, strict=True) if need]
    outputs, grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needs]


def plain_backward(
    ctx: RuleContext, x: Tensor, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """The gradients of `centred_affine` for a double backward."""
    needs_x, _, _, *needs = ctx.needs_input_grad
    outputs = plain(x, ctx.rule, ctx.through_moments, *tensors)
    g_x, *g_tensors = differentiable_grads(outputs, (x, *tensors), (needs_x, *needs), grads)
    return g_x, None, None, *g_tensors
