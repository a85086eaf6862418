"""Triton's interpreter runs the kernels on a CPU: `TRITON_INTERPRET=1 pytest interpreted_kernels.py`.

`test_triton_kernels.py` does that in a process of its own, since Triton reads the variable when it is imported.
"""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from timm_stylenorm.functional import map_ops, triton_kernels

# N, C, L: one position, one channel, neither L nor C multiples of a tile, several tiles
SHAPES = [(2, 3, 1), (1, 1, 5), (3, 5, 63), (1, 70, 33), (2, 130, 40)]
HUGE = 2**31 - 1


def maps(shape, layout, dtype=torch.float32, ratio=0.0):
    """A map and a gradient, (N, C, L), with mean / std `ratio`."""
    x, g = (torch.randn(shape) + ratio).to(dtype), torch.randn(shape).to(dtype)
    if layout == 'channels_last':
        return [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (x, g)]
    if layout == 'odd':  # every second position of every third channel of a larger map
        return [t.new_zeros(*shape[:1], 3 * shape[1], 2 * shape[2])[:, ::3, ::2].copy_(t) for t in (x, g)]
    return [x, g]


def run(kernels, x, g):
    """What the four kernels give, by the names of the operators."""
    torch.manual_seed(1)
    scale, level, slope = torch.randn(3, *x.shape[:2])
    centre, var = kernels.moments(x)
    y, z, g_x = (torch.empty_like(x) for _ in range(3))
    kernels.affine(x, y, scale, level, centre)
    kernels.affine(x, z, scale, None, None)
    kernels.gradient(g, x, g_x, scale, slope, level, centre)
    results = {'mean': centre.double().sum(0), 'var': var, 'affine': y, 'scaled': z, 'gradient': g_x}
    results['total'], results['dot'] = kernels.sums(g, x, centre)
    return results, (scale, level, slope)


def expected(x, g, scale, level, slope):
    """The same in float64."""
    x, g = x.double(), g.double()
    var, mean = torch.var_mean(x, -1, correction=0)
    deviation = x - mean[..., None]
    scale, level, slope = (t.double()[..., None] for t in (scale, level, slope))
    return {
        'mean': mean,
        'var': var,
        'affine': deviation * scale + level,
        'scaled': x * scale,
        'gradient': g * scale - deviation * slope - level,
        'total': g.sum(-1),
        'dot': (g * deviation).sum(-1),
    }


def check(x, g, kernels=triton_kernels):
    results, small = run(kernels, x, g)
    for name, exact in expected(x, g, *small).items():
        eps = torch.finfo(x.dtype if exact.shape == x.shape else torch.float32).eps
        scale = exact.abs().max().clamp(min=1)
        error = ((results[name] - exact).abs().max() / scale).item()
        assert error <= max(eps, 4e-7) * (1 if exact.shape == x.shape else x.shape[2] ** 0.5), name


@pytest.fixture
def few_programs(monkeypatch):
    """Several tiles for each program, and several shares for each channel."""
    monkeypatch.setattr(triton_kernels, '_PROGRAMS', 4)
    monkeypatch.setattr(triton_kernels, '_TILE', 512)


@pytest.mark.parametrize('layout', ['NCHW', 'channels_last', 'odd'])
@pytest.mark.parametrize('shape', SHAPES)
def test_kernels_agree_with_float64(shape, layout, few_programs):
    check(*maps(shape, layout))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype, few_programs):
    check(*maps((2, 9, 70), 'channels_last', dtype))


@pytest.mark.parametrize('layout', ['NCHW', 'channels_last'])
def test_means_that_dwarf_deviations_cost_nothing(layout, few_programs):
    check(*maps((1, 70, 33), layout, ratio=1000.0))


def test_shares_of_a_channel_far_from_one_another_add_up(few_programs):
    x, g = maps((1, 3, 2100), 'channels_last')
    x[..., 1000:] += 1000
    grid = triton_kernels.Grid(x)
    assert grid.shares > 1
    assert grid.tiles > 1
    assert grid.shares * grid.tiles > grid.rows  # the last share is shorter
    check(x, g)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_bad_value_stays_in_its_channel(value, few_programs):
    x, g = maps((2, 3, 40), 'channels_last')
    x[1, 2, 5] = value
    results, _ = run(triton_kernels, x, g)
    for name in ('mean', 'var', 'affine', 'gradient', 'dot'):
        finite = results[name].isfinite().flatten(2).all(-1) if results[name].dim() == 3 else results[name].isfinite()
        assert finite.sum() == 5, name
        assert not finite[1, 2], name


@pytest.fixture
def seen(monkeypatch):
    """Addresses that loads and stores of the interpreter meet; with `dry` nothing is loaded or stored."""
    log = SimpleNamespace(loads=[], stores=[], dry=False)
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def masked_load(self, ptrs, mask, *rest):
        log.loads.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)].ravel())
        if log.dry:
            mask = interpreter.TensorHandle(np.zeros_like(mask.data), mask.dtype)
        return load(self, ptrs, mask, *rest)

    def masked_store(self, ptrs, value, mask, *rest):
        log.stores.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)].ravel())
        if log.dry:
            mask = interpreter.TensorHandle(np.zeros_like(mask.data), mask.dtype)
        return store(self, ptrs, value, mask, *rest)

    monkeypatch.setattr(builder, 'create_masked_load', masked_load)
    monkeypatch.setattr(builder, 'create_masked_store', masked_store)
    return log


def touches(addresses, x):
    """How many elements of a map were met, with repetition, and how many different ones."""
    start = x.untyped_storage().data_ptr()
    met = np.concatenate(addresses) if addresses else np.empty(0, np.uint64)
    met = met[(met >= start) & (met < start + x.untyped_storage().nbytes())]
    return len(met), len(np.unique(met))


def traffic(kernels, seen, shape=(2, 70, 40)):
    """Operator -> loads and stores of whole maps."""
    x, g = maps(shape, 'channels_last')
    scale, level, slope = torch.randn(3, *shape[:2])
    centre, _ = kernels.moments(x)
    y = torch.empty_like(x)
    calls = {
        'moments': lambda: kernels.moments(x),
        'affine': lambda: kernels.affine(x, y, scale, level, centre),
        'sums': lambda: kernels.sums(g, x, centre),
        'gradient': lambda: kernels.gradient(g, x, y, scale, slope, level, centre),
    }
    found = {}
    for name, call in calls.items():
        seen.loads, seen.stores = [], []
        call()
        counts = []
        for addresses in (seen.loads, seen.stores):
            met = [touches(addresses, t) for t in (x, g, y)]
            assert all(different in (0, x.numel()) for _, different in met), name
            counts.append(sum(count for count, _ in met) / x.numel())
        found[name] = tuple(counts)
    return found


def test_kernels_load_and_store_maps_as_often_as_the_table_says(seen, few_programs):
    assert traffic(triton_kernels, seen) == {name: (t.reads, t.writes) for name, t in map_ops.TRAFFIC.items()}


def test_a_kernel_with_one_load_too_many_is_seen(seen, tmp_path):
    source = Path(triton_kernels.__file__).read_text()
    line = '        total += g\n'
    assert line in source
    file = tmp_path / 'planted.py'
    file.write_text(source.replace(line, line + '        g = tl.load(g_at, mask=mask, other=0.0).to(tl.float32)\n'))
    spec = importlib.util.spec_from_file_location('planted', file)
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    assert traffic(planted, seen)['sums'] == (3, 0)


def test_offsets_have_64_bits(seen):
    """Strides of a map of 2**40 elements; nothing is loaded."""
    seen.dry = True
    x = torch.empty(3, 4, 8, dtype=torch.float16)
    scale = torch.empty(3, 4)
    grid = triton_kernels.Grid(x)
    strides = (HUGE, 2**30 + 1, 2**29 + 1)  # 32 bits hold each, but not twice, three and seven times as much
    last = 2 * (2 * HUGE + 3 * (2**30 + 1) + 7 * (2**29 + 1))
    blocks = {'BLOCK_L': 2, 'BLOCK_C': 4}
    sizes = *grid.sizes, 3
    pointers = [scale] * 3
    kernels = {
        'affine': (triton_kernels.affine_kernel, 12, (x, x, *pointers, *sizes, *strides, *strides), {'LEVEL': True}),
        'gradient': (triton_kernels.gradient_kernel, 12, (x, x, x, *pointers, scale, *sizes, *strides * 3), {}),
        'sums': (triton_kernels.sums_kernel, 6, (x, x, scale, scale, *sizes, 2, 2, *strides * 2), {}),
        'moments': (triton_kernels.moments_kernel, 6, (x, scale, *sizes, 2, 2, *strides), None),
    }
    for name, (kernel, programs, args, options) in kernels.items():
        seen.loads, seen.stores = [], []
        kernel[(programs,)](*args, **blocks, **({} if options is None else {'CENTRE': 2, **options}))
        assert max(int(met.max()) for met in seen.loads if len(met)) == x.data_ptr() + last, name
