"""The route that GPUs take, on a CPU by the references of its operators: results, passes over the map, what is kept."""

import copy
import inspect

import pytest
import torch
from bench.measure import layer_classes, saved_maps
from bench.passes import Counter, gpu_passes
from expected import LONELY
from since import WHOLE_GRAPHS
from test_precision import FORMATS, LAYERS, errors, maps, outputs, randomise
from torch import nn

from timm_stylenorm import layers
from timm_stylenorm.functional import adain, backend, instance_moments, permuted_adain, restyle, style_affine

if not hasattr(torch.library, 'register_fake'):
    pytest.skip('torch before 2.4 has no torch.library.register_fake', allow_module_level=True)

from timm_stylenorm.functional import map_ops

pytestmark = LONELY

LESS_EXACT = {
    'SelfNorm',  # batch norm follows its convolutions, so that what remains of their gradients is small
    'DomainNorm2d',  # its gradients do not go through centred sums
}
FORMAT = pytest.mark.parametrize('memory_format', ['NCHW', 'channels_last'])
# Map kernels forward and backward, passes over the map; batch norm takes eight. `dual_bn` is batch norm.
KERNEL = [name for name in layer_classes() if name not in ('efdmix', 'domainnorm', 'irw', 'dual_bn')]
GOAL = {name: (2, 1, 5) if name == 'mixstyle' else (2, 2, 8) for name in KERNEL}
SMALL = {  # of the rules of more than ten lines of arithmetic; else 12 and 24
    'snr': (15, 42), 'mixstyle': (14, 24), 'dsu': (18, 38), 'crossnorm': (13, 28), 'selfnorm': (18, 31),
    'ibn_a': (20, 43), 'bin': (22, 45),
}  # fmt: skip


@FORMAT
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', KERNEL)
@pytest.mark.filterwarnings('ignore::timm_stylenorm.errors.StyleNormWarning')
def test_a_layer_passes_over_the_map_as_often_as_batch_norm(name, dtype, memory_format):
    forward, backward = gpu_passes(name, dtype, memory_format)
    assert (forward.own, backward.own) == GOAL[name][:2], 'the route was not taken'
    assert (forward.maps, backward.maps) == GOAL[name][:2]
    assert forward.passes + backward.passes == GOAL[name][2]
    most = SMALL.get(name, (12, 24))
    assert forward.small <= most[0]
    assert backward.small <= most[1]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_domainnorm_needs_no_maps_in_another_dtype(dtype):
    forward, backward = gpu_passes('domainnorm', dtype)
    assert forward.own
    assert forward.passes + backward.passes <= 30


def test_the_count_sees_whether_the_route_was_taken():
    forward, backward = gpu_passes('padain', route='plain')
    assert forward.own == backward.own == 0
    assert forward.passes + backward.passes > 8


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('name', KERNEL)
@pytest.mark.filterwarnings('ignore::timm_stylenorm.errors.StyleNormWarning')
def test_one_map_in_its_own_dtype_is_kept(name, dtype):
    with backend.force('gpu'):
        kept = saved_maps(name, (8, 64, 28, 28), 'NCHW', dtype)
    assert kept == pytest.approx(0 if name == 'mixstyle' else 1, abs=0.05)


@pytest.mark.parametrize('memory_format', FORMATS, ids=['NCHW', 'channels_last'])
@pytest.mark.parametrize('name', LAYERS)
@pytest.mark.parametrize('ratio', [0, 1000])
def test_layers_agree_with_float64(name, ratio, memory_format):
    """Contiguous maps have the mean as one float32 number, which costs digits where it dwarfs the deviation."""
    cls = getattr(layers, name)
    layer = cls(16, **({'p': 1.0} if 'p' in inspect.signature(cls).parameters else {})).train()
    randomise(layer, ratio)
    twin = copy.deepcopy(layer).double()
    x, g = maps(ratio, memory_format, (4, 16, 14, 14))
    with backend.force('gpu'):
        actual = outputs(layer, x, g)
    exact = (ratio == 0 or memory_format is torch.channels_last) and name not in LESS_EXACT
    assert max(errors(actual, outputs(twin, x.double(), g.double()))) < (5e-6 if exact else 1e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('memory_format', FORMATS, ids=['NCHW', 'channels_last'])
def test_half_precision_is_rounded_once(dtype, memory_format):
    x = (torch.randn(4, 6, 9, 9) * 300 + 100).to(dtype).contiguous(memory_format=memory_format)
    perm = torch.tensor([1, 2, 3, 0])
    expected = permuted_adain(x.double(), perm).to(dtype)
    with backend.force('gpu'):
        y = permuted_adain(x, perm)
    assert y.dtype == dtype
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.slow
def test_first_and_second_derivatives():
    x = torch.randn(2, 3, 3, 2, dtype=torch.double, requires_grad=True)
    style = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    scale, shift = torch.randn(2, 2, 3, dtype=torch.double, requires_grad=True).unbind()
    with backend.force('gpu'):
        for z in (x, x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()):
            assert torch.autograd.gradcheck(instance_moments, (z,))
            assert torch.autograd.gradcheck(restyle, (z, scale, shift))
            assert torch.autograd.gradcheck(adain, (z, style))
        assert torch.autograd.gradgradcheck(instance_moments, (x,))
        assert torch.autograd.gradgradcheck(restyle, (x, scale, shift))
        assert torch.autograd.gradgradcheck(adain, (x, style))


def test_extras_alone_carry_gradients():
    x = torch.randn(2, 3, 4, 2, dtype=torch.double, requires_grad=True)
    weight = torch.randn(3, dtype=torch.double, requires_grad=True)

    def extra(z, w):
        return style_affine(z, lambda mean, var, w: (w.expand_as(mean), mean * 0, (mean * w * var).sum()), w)[1]

    with backend.force('gpu'):
        assert torch.autograd.gradcheck(extra, (x, weight))


def test_backward_runs_twice_and_the_output_can_be_changed_in_place():
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    with backend.force('gpu'):
        y = permuted_adain(x, torch.tensor([2, 0, 1]))
    first = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(y.sum(), x)[0])
    for memory_format in FORMATS:
        z = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format).requires_grad_()
        with backend.force('gpu'):
            y, extra = style_affine(z, lambda mean, var: (var, mean, mean.sum()))
        y += z
        (y.sum() + extra).backward()
        assert z.grad.isfinite().all()


def test_a_parameter_that_changes_before_the_backward_pass_is_refused():
    layer, x = layers.InstanceNorm(4), torch.randn(2, 4, 5, 5, requires_grad=True)
    with backend.force('gpu'):
        y = layer(x)
    layer.weight.data = layer.weight.data.clone()
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        y.sum().backward()


def test_activation_checkpointing_runs_a_layer_once_more():
    calls = []

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layers.InstanceNorm(4)

        def forward(self, x):
            calls.append(1)
            return self.norm(x)

    layer, x = Seen(), torch.randn(2, 4, 5, 5, requires_grad=True)
    g = torch.randn_like(x)
    with backend.force('gpu'):
        expected = torch.autograd.grad(layer(x), x, g)[0]
        y = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], expected)
    assert len(calls) == 3


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_bad_value_stays_in_its_channel(value):
    x = torch.randn(3, 4, 5, 5)
    x[1, 2, 3, 3] = value
    with backend.force('gpu'):
        y = layers.InstanceNorm(4)(x)
    assert y[1, 2].isnan().all()
    assert y.isnan().sum() == 25


def test_force_names_the_routes_and_ends():
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="one of plain, cpu, gpu, got 'cuda'"), backend.force('cuda'):
        pass
    with backend.force('gpu'), backend.force('plain'):
        assert backend.route(x) == 'plain'
    assert backend.route(x) == 'cpu'


@pytest.mark.slow
@WHOLE_GRAPHS
def test_captured_graphs_hold_the_plain_formula():
    x, perm = torch.randn(3, 4, 6, 5), torch.tensor([2, 0, 1])
    graphs = []

    def look(graph, inputs):
        graphs.append(graph)
        return graph

    with backend.force('gpu'):
        torch.compile(permuted_adain, fullgraph=True, backend=look)(x, perm)
        eager = torch.func.vmap(lambda z: instance_moments(z)[0])(torch.stack([x, x]))
    assert not any('stylenorm' in str(node.target) for node in graphs[0].graph.nodes)
    torch.testing.assert_close(eager[0], x.mean((2, 3)))


def small(n, dtype=torch.float32):
    return [torch.randn(2, 3, dtype=dtype) for _ in range(n)]


@FORMAT
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_operators_keep_their_contracts(dtype, memory_format):
    x, g = (torch.randn(2, 3, 4, 5).to(dtype) for _ in range(2))
    if memory_format == 'channels_last':
        x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    centre, _ = map_ops.moments(x)
    scale, level, slope = small(3)
    calls = {
        map_ops.moments: [(x,)],
        map_ops.affine: [(x, scale, level, centre), (x, scale, None, None)],
        map_ops.sums: [(g, x, centre), (g, x, None)],
        map_ops.gradient: [(g, x, scale, slope, level, centre)],
    }
    for op, arguments in calls.items():
        for args in arguments:
            torch.library.opcheck(op, args, test_utils=('test_schema', 'test_faketensor'))


@pytest.fixture
def primitives():
    """What torch has on GPUs alone, for CPUs, by the formulas of its documentation of SyncBatchNorm's kernels."""

    def wide(t):
        return t[None, :, None, None].double()

    def stats(x, eps):
        var, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
        return mean.float(), (var.float() + eps).rsqrt()

    def elemt(x, weight, bias, mean, invstd, eps, *, out):
        weight = torch.ones_like(mean) if weight is None else weight
        y = (x.double() - wide(mean)) * wide(invstd) * wide(weight)
        return out.copy_(y if bias is None else y + wide(bias))

    def reduce(g, x, mean, invstd, weight, *masks):
        assert masks == (True, False, False)
        g = g.double()
        nothing = mean.new_empty(0)
        return g.sum((0, 2, 3)).float(), (g * (x.double() - wide(mean))).sum((0, 2, 3)).float(), nothing, nothing

    def backward(g, x, mean, invstd, weight, sum_dy, sum_dy_xmu, count):
        norm = 1 / count.sum().double()
        inner = wide(invstd).square() * wide(sum_dy_xmu) * norm
        y = g.double() - wide(sum_dy) * norm - (x.double() - wide(mean)) * inner
        return (y * wide(weight) * wide(invstd)).to(g.dtype)

    library = torch.library.Library('aten', 'IMPL')
    library.impl('batch_norm_stats', stats, 'CPU')
    library.impl('batch_norm_elemt.out', elemt, 'CPU')
    library.impl('batch_norm_backward_reduce', reduce, 'CPU')
    library.impl('batch_norm_backward_elemt', backward, 'CPU')
    yield
    library._destroy()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('shape', [(2, 3, 64, 4), (2, 3, 64), (1, 6, 8, 4, 8), (2, 3, 1, 130)])
def test_contiguous_maps_take_the_primitives_of_sync_batch_norm(primitives, shape, dtype):
    x, g = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    x[0, 1] = 3.0  # a channel without deviation
    centre, _ = map_ops.moments(x)
    scale, level, slope = (torch.randn(shape[:2]) for _ in range(3))
    scale[0, 0] = 0.0
    calls = {
        'moments': [(x,)],
        'affine': [(x, scale, level, centre), (x, scale, level, None), (x, scale, None, None)],
        'sums': [(g, x, centre), (g, x, None)],
        'gradient': [(g, x, scale, slope, level, centre)],
    }
    for name, arguments in calls.items():
        for args in arguments:
            with Counter(x) as counter:
                actual = getattr(map_ops, f'{name}_on_gpu')(*args)
            expected = getattr(map_ops, name)(*args)
            torch.testing.assert_close(actual, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
            traffic = map_ops.TRAFFIC[name]
            assert counter.count.maps == 1
            assert counter.count.passes == traffic.reads + traffic.writes
            assert counter.count.small <= traffic.small + (args[-1] is None)
