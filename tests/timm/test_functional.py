"""The kernel: independent formulas in float64, gradients, layouts, dtypes and edges."""

import pytest
import torch
from since import WHOLE_GRAPHS

from timm_stylenorm.functional import (
    adain,
    backend,
    domain_norm,
    dual_causality_loss,
    efdmix,
    exchange_styles,
    instance_moments,
    permuted_adain,
    restyle,
    style_affine,
)

SHAPES = [(3, 5, 6), (3, 5, 6, 4), (2, 3, 4, 3, 2)]


def layouts(x):
    """The same values in memory orders that callers use."""
    yield x
    yield x.movedim(1, -1).contiguous().movedim(-1, 1)
    if x.dim() == 4:
        yield x.transpose(2, 3).contiguous().transpose(2, 3)


def loop_moments(x):
    """Mean and biased variance by plain loops over images and channels."""
    mean, var = torch.empty(x.shape[:2], dtype=x.dtype), torch.empty(x.shape[:2], dtype=x.dtype)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = x[n, c].flatten().tolist()
            m = sum(values) / len(values)
            mean[n, c] = m
            var[n, c] = sum((v - m) ** 2 for v in values) / len(values)
    return mean, var


def wide(small, x):
    return small.reshape(*small.shape, *(1,) * (x.dim() - 2))


@pytest.mark.parametrize('shape', SHAPES)
def test_moments_equal_a_plain_loop(shape):
    for x in layouts(torch.randn(shape, dtype=torch.double) * 3 + 2):
        for actual, expected in zip(instance_moments(x), loop_moments(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('shape', SHAPES)
def test_permuted_adain_equals_a_plain_formula(shape):
    perm = torch.randperm(shape[0])
    for x in layouts(torch.randn(shape, dtype=torch.double) * 2 + 1):
        mean, var = loop_moments(x)
        n = x.shape[2:].numel()
        std = (var * n / (n - 1) + 1e-5).sqrt()
        expected = (x - wide(mean, x)) / wide(std + 1e-5, x) * wide(std[perm], x) + wide(mean[perm], x)
        y = permuted_adain(x, perm)
        torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('shape', [(3, 5, 4), (2, 3, 3, 4), (2, 2, 2, 3, 2)])  # gradcheck goes through every entry
@pytest.mark.some(1)
def test_gradients_of_every_function(shape):
    style = torch.randn(shape, dtype=torch.double, requires_grad=True)
    scale = torch.randn(shape[:2], dtype=torch.double, requires_grad=True)
    shift = torch.randn(shape[:2], dtype=torch.double, requires_grad=True)
    for x in layouts(torch.randn(shape, dtype=torch.double)):
        x.requires_grad_()
        assert torch.autograd.gradcheck(instance_moments, (x,))
        assert torch.autograd.gradcheck(restyle, (x, scale, shift))
        assert torch.autograd.gradcheck(adain, (x, style))


def test_second_derivatives():
    x = torch.randn(2, 3, 3, 2, dtype=torch.double, requires_grad=True)
    style = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(instance_moments, (x,))
    assert torch.autograd.gradgradcheck(adain, (x, style))


def test_permuted_adain_gradient_stops_at_the_style():
    x = torch.randn(3, 4, 5, 2, dtype=torch.double)
    perm = torch.tensor([1, 2, 0])

    def with_fixed_style(z):
        std = lambda t: (t.flatten(2).var(2) + 1e-5).sqrt()  # noqa: E731
        scale = std(x)[perm] / (std(z) + 1e-5)
        return (z - wide(z.flatten(2).mean(2), z)) * wide(scale, z) + wide(x.flatten(2).mean(2)[perm], z)

    g = torch.randn_like(x)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = torch.autograd.grad(with_fixed_style(a), a, g)[0]
    torch.testing.assert_close(torch.autograd.grad(permuted_adain(b, perm), b, g)[0], expected, rtol=1e-9, atol=1e-9)


def loop_efdmix(x, perm, lmda):
    """By plain loops: the value of rank r moves towards the partner's value of rank r."""
    y = x.clone()
    for i, j in enumerate(perm.tolist()):
        for c in range(x.shape[1]):
            order, partner = x[i, c].flatten().argsort(), x[j, c].flatten().sort().values
            target = torch.empty_like(partner)
            target[order] = partner
            y[i, c] = x[i, c] + (1 - lmda[i]) * (target.view_as(x[i, c]) - x[i, c].detach())
    return y


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('partners', [lambda n: torch.randperm(n), lambda n: torch.zeros(n, dtype=torch.long)])
def test_efdmix_equals_a_plain_loop(shape, partners):
    perm, lmda = partners(shape[0]), torch.rand(shape[0], dtype=torch.double)
    for x in layouts(torch.randn(shape, dtype=torch.double)):
        a, b = (x.detach().requires_grad_() for _ in range(2))
        y, expected = efdmix(a, perm, lmda), loop_efdmix(b, perm, lmda)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        g = torch.randn_like(y)
        actual, expected = torch.autograd.grad(y, a, g)[0], torch.autograd.grad(expected, b, g)[0]
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_efdmix_of_equal_values_keeps_the_distribution():
    x = torch.randn(3, 4, 9, 9).relu()
    perm = torch.tensor([2, 0, 1])
    y = efdmix(x, perm, torch.zeros(3))
    torch.testing.assert_close(y.flatten(2).sort(-1).values, x[perm].flatten(2).sort(-1).values)


def test_efdmix_is_linear_in_its_gradient():
    x = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    g = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    (g_x,) = torch.autograd.grad(efdmix(x, torch.tensor([1, 0]), torch.full((2,), 0.3)), x, g, create_graph=True)
    (again,) = torch.autograd.grad(g_x.sum(), g)
    torch.testing.assert_close(again, torch.full_like(again, 1.7))


@pytest.mark.parametrize('axis', [0, 1])
def test_exchange_is_adain_of_a_permuted_copy(axis):
    perm = torch.randperm((4, 6)[axis])
    for x in layouts(torch.randn(4, 6, 5, 7, dtype=torch.double)):
        a, b = (x.detach().requires_grad_() for _ in range(2))
        y, expected = exchange_styles(a, perm, axis), adain(b, b.index_select(axis, perm))
        torch.testing.assert_close(y, expected)
        g = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, a, g)[0], torch.autograd.grad(expected, b, g)[0])


@pytest.mark.parametrize('frozen', [0, 1, 2])
def test_domain_norm_differentiates_twice_with_frozen_inputs(frozen):
    tensors = torch.randn(2, 3, 4, 2, dtype=torch.double), *torch.randn(2, 3, dtype=torch.double)
    leaves = [t.clone().requires_grad_(k != frozen) for k, t in enumerate(tensors)]
    assert torch.autograd.gradcheck(lambda *t: domain_norm(*t, 1e-5), leaves)
    assert torch.autograd.gradgradcheck(lambda *t: domain_norm(*t, 1e-5), leaves)


def test_domain_norm_keeps_one_map_and_a_norm_for_each_position():
    kept = {}
    x, weight, bias = torch.randn(4, 64, 8, 8, requires_grad=True), torch.ones(64), torch.zeros(64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        domain_norm(x, weight, bias, 1e-5)
    assert sum(kept.values()) < 1.1 * x.numel()


def test_efdmix_keeps_no_more_bytes_than_the_map_has():
    kept = {}
    x = torch.randn(4, 8, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t):
        efdmix(x, torch.randperm(4), torch.rand(4))
    assert sum(kept.values()) <= x.nbytes + 64


def test_extras_of_a_rule_carry_gradients():
    def rule(mean, var, weight):
        return weight.expand_as(mean), mean * 0, (mean * weight).sum(), var.mean(1)

    x = torch.randn(2, 3, 4, 2, dtype=torch.double, requires_grad=True)
    weight = torch.randn(3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: style_affine(x, rule, w), (x, weight))
    only_extra = torch.autograd.grad(style_affine(x, rule, weight)[1], x)[0]
    torch.testing.assert_close(only_extra, (weight / 8).view(1, 3, 1, 1).expand_as(x), rtol=1e-9, atol=1e-9)


def test_only_the_map_and_small_tensors_are_kept_for_backward():
    kept = []
    x = torch.randn(4, 8, 16, 16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        permuted_adain(x, torch.randperm(4))
    backend = {t.data_ptr() for t in kept if t.numel() == x.numel()}
    assert backend == {x.data_ptr()}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_maps_use_float32_statistics(dtype):
    x = (torch.randn(4, 6, 9, 9) * 300 + 100).to(dtype)  # the variance does not fit into float16
    perm = torch.tensor([1, 2, 3, 0])
    for z in (x, x.contiguous(memory_format=torch.channels_last)):
        y = permuted_adain(z.requires_grad_(), perm)
        assert y.dtype == dtype
        assert y.stride() == z.stride()
        expected = permuted_adain(z.detach().float(), perm)
        torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2)
        assert torch.autograd.grad(y.float().sum(), z)[0].isfinite().all()
        assert instance_moments(z)[1].dtype == torch.float32


@pytest.mark.filterwarnings('ignore:var_mean.*degrees of freedom')  # torch's word on an empty batch
@pytest.mark.parametrize('shape', [(1, 5, 4, 4), (3, 5, 1, 1), (3, 1, 4, 4), (0, 5, 4, 4), (2, 7, 1, 3)])
def test_edges_give_finite_values_and_gradients(shape):
    for x in (torch.randn(shape), torch.full(shape, 3.0), torch.zeros(shape)):
        x.requires_grad_()
        y = permuted_adain(x, torch.randperm(shape[0]))
        (g,) = torch.autograd.grad(y.square().sum(), x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        assert g.isfinite().all()


def test_constant_channel_takes_the_other_mean():
    x = torch.stack([torch.full((1, 4, 4), 2.0), torch.randn(1, 4, 4)])
    y = permuted_adain(x, torch.tensor([1, 0]))
    torch.testing.assert_close(y[0], x[1].mean().expand(1, 4, 4))


def test_a_closed_gate_returns_the_input():
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(permuted_adain(x, torch.tensor([2, 0, 1]), gate=torch.tensor(False)), x)
    assert not torch.equal(permuted_adain(x, torch.tensor([2, 0, 1]), gate=torch.tensor(True)), x)


def test_backward_runs_twice_with_retained_graph():
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    y = permuted_adain(x, torch.tensor([2, 0, 1]))
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y.sum(), x)[0])


@WHOLE_GRAPHS
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.some(1)
def test_compiled_formula_equals_the_eager_kernel(memory_format):
    x = torch.randn(3, 4, 6, 5).contiguous(memory_format=memory_format)
    perm = torch.tensor([2, 0, 1])
    compiled = torch.compile(permuted_adain, fullgraph=True, backend='aot_eager')
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = permuted_adain(a, perm), compiled(b, perm)
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
    g = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(z, b, g)[0], torch.autograd.grad(y, a, g)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_other_devices_compute_the_same(memory_format):
    """The formulas that other devices take, run on this one."""
    x, g = (torch.randn(3, 4, 6, 5).contiguous(memory_format=memory_format) for _ in range(2))
    results = []
    for route in ('cpu', 'plain'):
        with backend.force(route):
            z = x.clone().requires_grad_()
            y = permuted_adain(z, torch.tensor([2, 0, 1]))
            moments = instance_moments(z)
            results.append([y, *torch.autograd.grad(y, z, g), *moments, *torch.autograd.grad(sum(moments).sum(), z)])
    for actual, expected in zip(*results, strict=True):
        assert actual.stride() == expected.stride()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_function_transforms_work():
    x, style = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    grad = torch.func.grad(lambda z: adain(z, style).square().sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(
        grad, torch.autograd.grad(adain(leaf, style).square().sum(), leaf)[0], rtol=1e-4, atol=1e-5
    )
    stacked = torch.func.vmap(lambda z: adain(z, style))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(stacked[1], adain(2 * x, style))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_the_output_can_be_changed_in_place(memory_format):
    """As residual blocks do, also where a rule has extras."""
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format).requires_grad_()
    y, extra = style_affine(x, lambda mean, var: (var, mean, mean.sum()))
    y += x
    (y.sum() + extra).backward()
    assert x.grad.isfinite().all()


def test_causality_loss_prefers_sharp_restitution():
    sharp, blurred, between = torch.tensor([[9.0, 0, 0]]), torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]])
    assert dual_causality_loss(between, sharp, blurred) < dual_causality_loss(between, blurred, sharp)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r'expected a feature map .* got shape \(3, 4\)'):
        style_affine(torch.randn(3, 4), lambda m, v: (m, v))
    with pytest.raises(ValueError, match='4 styles for a batch of 3'):
        permuted_adain(torch.randn(3, 4, 5), torch.arange(4))
    with pytest.raises(ValueError, match='must agree in images and channels'):
        adain(torch.randn(3, 4, 5), torch.randn(2, 4, 5))
