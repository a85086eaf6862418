"""The one kernel: take the instance moments of a feature map, ask a rule for an affine map, apply it.

    mean, var      = instance moments of x, each (N, C), over the spatial axes, biased
    scale, shift   = rule(mean, var, *tensors), each (N, C)
    y              = x * scale + shift

Every style method is such a rule. The rule is ordinary differentiable arithmetic on small tensors; it is evaluated
again in the backward pass, so it must not draw random numbers (a draw is passed in as one of the tensors).
With gA = sum(g * x) and gB = sum(g), autograd through the small rule gives the gradients (gm, gv) of the moments, and

    dL/dx = scale * g + gm / n + 2 * gv * (x - mean) / n,        n = number of positions

so that the feature map itself is the only large tensor kept for the backward pass. All small tensors are float64: a map
whose mean is large beside its deviation leaves nothing of it in a shift of float32.

While a graph is captured (`torch.compile`, `torch.export`, tracing) the plain formula is used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from . import backend
from .backend import widen

Rule = Callable[..., tuple[Tensor, ...]]


def style_affine(x: Tensor, rule: Rule, *tensors: Tensor) -> Any:
    """Restyle a feature map by the affine map that `rule` derives from its instance moments.

    Args:
        x: Feature map, (N, C, *spatial), contiguous or channels last; the result has its dtype and memory format.
        rule: `rule(mean, var, *tensors) -> (scale, shift, *extras)`. `mean`, `var`, `scale`, `shift` are (N, C) in
            float64 (float32 in an exported graph); `var` is biased. `extras` are further differentiable small results.
            It is called once more in the backward pass and must give the same result there.
        *tensors: Parameters and draws that the rule uses. Floating point ones reach it in the dtype of `mean`.

    Returns:
        y of the shape of `x`; `(y, *extras)` when the rule returns extras, in float32 (float64 for float64 maps).

    Raises:
        ValueError: `x` has no spatial axis.
    """
    if x.dim() < 3:
        raise ValueError(f'style_affine: expected a feature map (N, C, *spatial), got shape {tuple(x.shape)}')
    results = _plain(x, rule, *tensors) if use_plain(x) else _StyleAffine.apply(x, rule, *tensors)
    return results if len(results) > 1 else results[0]


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel of every image, differentiable.

    Args:
        x: Feature map, (N, C, *spatial).

    Returns:
        mean, var: each (N, C), float32 (float64 for float64 maps).
    """
    if x.dim() < 3:
        raise ValueError(f'instance_moments: expected a feature map (N, C, *spatial), got shape {tuple(x.shape)}')
    return _plain_moments(x) if use_plain(x) else _InstanceMoments.apply(x)


def restyle(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`y = x * scale + shift` with one scale and shift for each channel of each image.

    Args:
        x: Feature map, (N, C, *spatial).
        scale: (N, C).
        shift: (N, C).

    Returns:
        y in the dtype and memory format of `x`.
    """
    return _plain_restyle(x, scale, shift) if use_plain(x) else _Restyle.apply(x, scale, shift)


def use_plain(x: Tensor) -> bool:
    """While a graph is captured or transformed, and on empty maps."""
    if backend.is_compiling() or torch.jit.is_tracing() or x.numel() == 0:
        return True
    return torch._C._are_functorch_transforms_active()  # noqa: SLF001 (there is no public way to ask)


def _call(rule: Rule, mean: Tensor, var: Tensor, tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The rule in the dtype of `mean`, outside autocast; scale and shift are expanded to (N, C), extras get `dtype`."""
    with backend.outside_autocast(mean):
        tensors = [t.to(mean.dtype) if t.is_floating_point() else t for t in tensors]
        scale, shift, *extras = rule(mean, var, *tensors)
    return scale.expand_as(mean), shift.expand_as(mean), *(e.to(dtype) for e in extras)


def _plain_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(widen(x), dim=tuple(range(2, x.dim())), correction=0)
    return mean, var


def _plain_restyle(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (widen(x) * backend.spatial(x, scale) + backend.spatial(x, shift)).to(x.dtype)


def _plain(x: Tensor, rule: Rule, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The kernel as a formula; float32 throughout where the graph goes to another runtime, which may know no other."""
    mean, var = _plain_moments(x)
    if backend.is_exporting() or torch.jit.is_tracing():
        scale, shift, *extras = _call(rule, mean, var, tensors, mean.dtype)
        return _plain_restyle(x, scale, shift), *extras
    scale, shift, *extras = _call(rule, backend.precise(mean), backend.precise(var), tensors, mean.dtype)
    centre = mean.detach()  # y does not depend on it, but for rounding
    level = (shift + centre * scale).to(mean.dtype)
    return _plain_restyle(widen(x) - backend.spatial(x, centre), scale.to(mean.dtype), level).to(x.dtype), *extras


class Context(Protocol):
    """What torch hands to `forward` and `backward` of a `Function`."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class _InstanceMoments(torch.autograd.Function):
    """`instance_moments` that keeps only `x`."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> tuple[Tensor, Tensor]:
        dense = backend.dense(x)
        mean, var, middle = backend.moments(dense)
        ctx.save_for_backward(x, mean, middle)
        return mean.to(dense.dtype), var.to(dense.dtype)

    @staticmethod
    def backward(ctx: Context, g_mean: Tensor, g_var: Tensor) -> Tensor:
        x, mean, middle = ctx.saved_tensors
        count = x.shape[2:].numel()
        slope = g_var * (2 / count)
        if torch.is_grad_enabled():  # double backward: the mean must carry its own graph
            mean, _ = _plain_moments(x)
            return restyle(widen(x), slope, g_mean / count - slope * mean).to(x.dtype)
        return backend.affine(backend.dense(x), slope, g_mean / count - slope * mean, middle).to(x.dtype)


class _Restyle(torch.autograd.Function):
    """`restyle`; keeps the map only if scale or shift learn."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(scale, x if any(ctx.needs_input_grad[1:]) else None)
        return backend.affine(backend.dense(x), scale, shift).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, g: Tensor) -> tuple[Tensor | None, ...]:
        scale, x = ctx.saved_tensors
        g_x = restyle(g, scale, torch.zeros_like(scale)) if ctx.needs_input_grad[0] else None
        if x is None:
            return g_x, None, None
        if torch.is_grad_enabled():
            axes = tuple(range(2, x.dim()))
            return g_x, (widen(g) * widen(x)).sum(axes), widen(g).sum(axes)
        dot, total = backend.reductions(widen(g), backend.dense(x), torch.zeros_like(scale))
        return g_x, dot.to(scale.dtype), total.to(scale.dtype)


class _RuleContext(Context, Protocol):
    rule: Rule
    constant: bool


class _StyleAffine(torch.autograd.Function):
    """`style_affine` that keeps `x`, its moments and the rule's tensors, and evaluates the rule again for gradients."""

    @staticmethod
    def forward(ctx: _RuleContext, x: Tensor, rule: Rule, *tensors: Tensor) -> tuple[Tensor, ...]:
        dense = backend.dense(x)
        mean, var, middle = backend.moments(dense)
        with torch.set_grad_enabled(any(ctx.needs_input_grad)):  # a small graph, only to see what depends on what
            m, v = (moment.detach().requires_grad_(ctx.needs_input_grad[0]) for moment in (mean, var))
            results = _call(rule, m, v, tensors, dense.dtype)
        ctx.constant = not any(result.requires_grad for result in results)
        scale, shift, *extras = (result.detach() for result in results)
        ctx.rule = rule
        ctx.set_materialize_grads(False)
        if ctx.constant:  # the map need not be kept
            ctx.save_for_backward(scale)
        else:
            ctx.save_for_backward(x, mean, var, middle, *tensors)
        return backend.affine(dense, scale, shift, middle).to(x.dtype), *extras

    @staticmethod
    def backward(ctx: _RuleContext, g: Tensor | None, *g_extras: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.constant:
            (scale,) = ctx.saved_tensors
            g_x = None if g is None else restyle(g, scale, torch.zeros_like(scale))
            return g_x, None, *(None for _ in ctx.needs_input_grad[2:])
        x, mean, var, middle, *tensors = ctx.saved_tensors
        needs_x, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            outputs = _plain(x, ctx.rule, *tensors)
            g_x, *g_tensors = differentiable_grads(outputs, (x, *tensors), (needs_x, *needs), (g, *g_extras))
            return g_x, None, *g_tensors
        dense = backend.dense(x)
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
            m, v = (moment.detach().requires_grad_(needs_x) for moment in (mean, var))
            results = _call(ctx.rule, m, v, leaves, dense.dtype)
        g_small = (None, None) if g is None else backend.reductions(widen(g), dense, mean)
        g_mean, g_var, *g_tensors = _small_grads(results, (m, v, *leaves), (*g_small, *g_extras))
        if not needs_x:
            return None, None, *g_tensors
        count = x.shape[2:].numel()
        slope = torch.zeros_like(mean) if g_var is None else g_var * (2 / count)
        level = -slope * mean if g_mean is None else g_mean / count - slope * mean
        g_x = backend.affine(dense, slope, level, middle)
        if g is not None:
            g_x.addcmul_(widen(g), backend.spatial(x, results[0].detach().to(dense.dtype)))
        return g_x.to(x.dtype), None, *g_tensors


def _small_grads(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """`torch.autograd.grad` that passes over outputs without a gradient and inputs that need none."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
    wanted = [i for i in inputs if i.requires_grad]
    if not pairs or not wanted:
        return [None] * len(inputs)
    outputs, grads = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, grads, allow_unused=True))
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
