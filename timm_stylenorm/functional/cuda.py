"""The kernel on a GPU, built from the operators of `map_ops`, with its own gradients.

It makes eight passes over the map in its own dtype, like batch norm: moments 1, affine map 2, sums 2, gradient 3. Small
tensors are float32. The rule runs once: its small graph is kept for the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import map_ops
from .backend import dense, is_channels_last, widen
from .formula import Context, Functions, Rule, RuleContext, call, plain_backward, plain_moments, small_grads


def like(g: Tensor, x: Tensor) -> Tensor:
    """A gradient in the layout of the dense map `x`."""
    if not is_channels_last(x):
        return g.contiguous()
    return g if is_channels_last(g) else g.movedim(1, -1).contiguous().movedim(-1, 1)


def _small(t: Tensor, x: Tensor) -> Tensor:
    """A small tensor in the form in which the operators take it together with the map `x`."""
    return t.detach().to(torch.promote_types(x.dtype, torch.float32)).contiguous()


class _InstanceMoments(torch.autograd.Function):
    """`instance_moments` that keeps only `x`."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> tuple[Tensor, Tensor]:
        centre, var = map_ops.moments(dense(x))
        ctx.save_for_backward(x, centre)
        return centre.sum(0), var

    @staticmethod
    def backward(ctx: Context, g_mean: Tensor, g_var: Tensor) -> Tensor:
        x, centre = ctx.saved_tensors
        count = x.shape[2:].numel()
        slope, level = g_var * (2 / count), g_mean / count
        if torch.is_grad_enabled():  # double backward: the mean must carry its own graph
            mean, _ = plain_moments(x)
            return _Restyle.apply(widen(x), slope, level - slope * mean).to(x.dtype)
        return map_ops.affine(dense(x), slope.contiguous(), level.contiguous(), centre)


class _Restyle(torch.autograd.Function):
    """`restyle`; keeps the map only if scale or shift needs a gradient. If there is no shift, it is 0."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        ctx.save_for_backward(scale, x if any(ctx.needs_input_grad[1:]) else None)
        return map_ops.affine(dense(x), _small(scale, x), None if shift is None else _small(shift, x), None)

    @staticmethod
    def backward(ctx: Context, g: Tensor) -> tuple[Tensor | None, ...]:
        scale, x = ctx.saved_tensors
        g_x = _Restyle.apply(g, scale, None) if ctx.needs_input_grad[0] else None
        if x is None:
            return g_x, None, None
        if torch.is_grad_enabled():
            axes = tuple(range(2, x.dim()))
            total, dot = widen(g).sum(axes), (widen(g) * widen(x)).sum(axes)
        else:
            x = dense(x)
            total, dot = map_ops.sums(like(g, x), x, None)
        return g_x, dot.to(scale.dtype), total if ctx.needs_input_grad[2] else None


class _Context(RuleContext):
    """A `RuleContext` that also has the small graph, from leaves to results."""

    leaves: list[Tensor]
    results: tuple[Tensor, ...]


class _CentredAffine(torch.autograd.Function):
    """`centred_affine` that keeps `x`, its mean and the rule's small graph."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, rule: Rule, through_moments: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        view = dense(x)
        centre, var = map_ops.moments(view)
        needs_x, _, _, *needs = ctx.needs_input_grad
        needs_moments = needs_x and through_moments
        small, wanted = (centre[0], var, *tensors), (needs_moments, needs_moments, *needs)
        ctx.leaves = [t.detach().requires_grad_(need) for t, need in zip(small, wanted, strict=True)]
        with torch.set_grad_enabled(any(wanted)), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            m, v, *leaves = ctx.leaves
            ctx.results = call(rule, m, v, leaves, var.dtype)
        ctx.constant = not any(result.requires_grad for result in ctx.results)
        scale, level, *extras = (result.detach() for result in ctx.results)
        ctx.rule, ctx.through_moments = rule, through_moments
        ctx.set_materialize_grads(False)
        if ctx.constant:  # the map need not be kept
            del ctx.leaves, ctx.results
            ctx.save_for_backward(scale)
        else:
            ctx.save_for_backward(x, centre, *tensors)
        return map_ops.affine(view, scale.contiguous(), level.contiguous(), centre), *extras

    @staticmethod
    def backward(ctx: _Context, g: Tensor | None, *g_extras: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.constant:
            (scale,) = ctx.saved_tensors
            g_x = None if g is None else _Restyle.apply(g, scale, None)
            return g_x, *(None for _ in ctx.needs_input_grad[1:])
        x, centre, *tensors = ctx.saved_tensors  # raises if somebody has overwritten them in place
        if torch.is_grad_enabled():
            return plain_backward(ctx, x, tensors, (g, *g_extras))
        x, scale = dense(x), ctx.results[0].detach().contiguous()
        total = dot = None
        if g is not None:
            g = like(g, x)
            total, dot = map_ops.sums(g, x, centre)
        g_mean, g_var, *g_tensors = small_grads(ctx.results, ctx.leaves, (dot, total, *g_extras))
        if not ctx.needs_input_grad[0]:
            g_x = None
        elif ctx.through_moments:
            g_x = _through_moments(g, total, x, scale, centre, g_mean, g_var)
        else:
            g_x = None if g is None else map_ops.affine(g, scale, None, None)
        return g_x, None, None, *g_tensors


def _through_moments(
    g: Tensor | None,
    total: Tensor | None,
    x: Tensor,
    scale: Tensor,
    centre: Tensor,
    g_mean: Tensor | None,
    g_var: Tensor | None,
) -> Tensor:
    """The gradient of the map `x`.

    It combines the gradient `g` of y, whose sum is `total`, with the gradients of the moments through the rule.
    """
    count = x.shape[2:].numel()
    sign = 1 if g is None else -1
    slope = torch.zeros_like(scale) if g_var is None else g_var * (sign * 2 / count)
    if g is None or total is None:
        return map_ops.affine(x, slope, None if g_mean is None else g_mean / count, centre)
    through_y = scale * total  # y has x - mean
    level = (through_y if g_mean is None else through_y.sub_(g_mean)).mul_(1 / count)
    return map_ops.gradient(g, x, scale, slope, level, centre)


def _as_it_is(tensor: Tensor) -> Tensor:
    """A hook that saves tensors of the small graph as they are: checkpointing would rerun the network for them."""
    return tensor


FUNCTIONS = Functions(_InstanceMoments, _Restyle, _CentredAffine)
