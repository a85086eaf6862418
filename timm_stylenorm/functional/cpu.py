"""The kernel on a CPU, built from the operations of `backend`, with its own gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import backend
from .backend import widen
from .formula import Context, Functions, Rule, RuleContext, call, plain_backward, plain_moments, small_grads


class _InstanceMoments(torch.autograd.Function):
    """`instance_moments` that keeps only `x`."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> tuple[Tensor, Tensor]:
        dense = backend.dense(widen(x))
        mean, var, middle = backend.moments(dense)
        ctx.save_for_backward(x, mean, middle)
        return mean.to(dense.dtype), var.to(dense.dtype)

    @staticmethod
    def backward(ctx: Context, g_mean: Tensor, g_var: Tensor) -> Tensor:
        x, mean, middle = ctx.saved_tensors
        count = x.shape[2:].numel()
        slope = g_var * (2 / count)
        if torch.is_grad_enabled():  # double backward: the mean must carry its own graph
            mean, _ = plain_moments(x)
            return _Restyle.apply(widen(x), slope, g_mean / count - slope * mean).to(x.dtype)
        return backend.affine(backend.dense(widen(x)), slope, g_mean / count - slope * mean, middle).to(x.dtype)


class _Restyle(torch.autograd.Function):
    """`restyle`; keeps the map only if scale or shift needs a gradient."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(scale, x if any(ctx.needs_input_grad[1:]) else None)
        return backend.affine(backend.dense(widen(x)), scale, shift).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, g: Tensor) -> tuple[Tensor | None, ...]:
        scale, x = ctx.saved_tensors
        g_x = _Restyle.apply(g, scale, torch.zeros_like(scale)) if ctx.needs_input_grad[0] else None
        if x is None:
            return g_x, None, None
        if torch.is_grad_enabled():
            axes = tuple(range(2, x.dim()))
            return g_x, (widen(g) * widen(x)).sum(axes), widen(g).sum(axes)
        dot, total = backend.reductions(widen(g), backend.dense(widen(x)), torch.zeros_like(scale))
        return g_x, dot.to(scale.dtype), total.to(scale.dtype)


class _CentredAffine(torch.autograd.Function):
    """`centred_affine` that keeps `x`, its moments and the rule's tensors, and evaluates the rule twice."""

    @staticmethod
    def forward(ctx: RuleContext, x: Tensor, rule: Rule, through_moments: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        dense = backend.dense(widen(x))
        mean, var, middle = backend.moments(dense)
        with torch.set_grad_enabled(any(ctx.needs_input_grad)):  # a small graph, only to see what depends on what
            m, v = (t.detach().requires_grad_(ctx.needs_input_grad[0] and through_moments) for t in (mean, var))
            results = _with_shift(rule, m, v, tensors, dense.dtype)
        ctx.constant = not any(result.requires_grad for result in results)
        scale, shift, *extras = (result.detach() for result in results)
        ctx.rule, ctx.through_moments = rule, through_moments
        ctx.set_materialize_grads(False)
        if ctx.constant:  # the map need not be kept
            ctx.save_for_backward(scale)
        else:
            ctx.save_for_backward(x, mean, var, middle, *tensors)
        return backend.affine(dense, scale, shift, middle).to(x.dtype), *extras

    @staticmethod
    def backward(ctx: RuleContext, g: Tensor | None, *g_extras: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.constant:
            (scale,) = ctx.saved_tensors
            g_x = None if g is None else _Restyle.apply(g, scale, torch.zeros_like(scale))
            return g_x, *(None for _ in ctx.needs_input_grad[1:])
        x, mean, var, middle, *tensors = ctx.saved_tensors
        needs_x, _, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            return plain_backward(ctx, x, tensors, (g, *g_extras))
        dense = backend.dense(widen(x))
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_(need) for t, need in zip(tensors, needs, strict=True)]
            m, v = (moment.detach().requires_grad_(needs_x and ctx.through_moments) for moment in (mean, var))
            results = _with_shift(ctx.rule, m, v, leaves, dense.dtype)
        g_small = (None, None) if g is None else backend.reductions(widen(g), dense, mean)
        g_mean, g_var, *g_tensors = small_grads(results, (m, v, *leaves), (*g_small, *g_extras))
        if not needs_x:
            return None, None, None, *g_tensors
        count = x.shape[2:].numel()
        slope = torch.zeros_like(mean) if g_var is None else g_var * (2 / count)
        level = -slope * mean if g_mean is None else g_mean / count - slope * mean
        g_x = backend.affine(dense, slope, level, middle)
        if g is not None:
            g_x.addcmul_(widen(g), backend.spatial(x, results[0].detach().to(dense.dtype)))
        return g_x.to(x.dtype), None, None, *g_tensors


def _with_shift(
    rule: Rule, mean: Tensor, var: Tensor, tensors: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Scale, shift and extras of the rule, for y = x * scale + shift."""
    scale, level, *extras = call(rule, mean, var, tensors, dtype)
    return scale, level - mean * scale, *extras


FUNCTIONS = Functions(_InstanceMoments, _Restyle, _CentredAffine)
