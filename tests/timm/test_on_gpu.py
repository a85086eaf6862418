"""What only a GPU can show: captured CUDA graphs, no waits for the device, peaks of memory, and that results agree."""

import pytest
import torch
from bench.measure import layer_classes, make
from expected import LONELY

from timm_stylenorm.functional import backend

pytestmark = [
    LONELY,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
]

FORMATS = {'NCHW': torch.contiguous_format, 'channels_last': torch.channels_last}
FORMAT = pytest.mark.parametrize('memory_format', FORMATS)
DTYPE = pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
LAYERS = [name for name in layer_classes() if name not in ('efdmix', 'domainnorm', 'irw', 'dual_bn')]
LAYER = pytest.mark.parametrize('name', LAYERS)


def maps(memory_format, dtype, shape=(8, 64, 56, 56)):
    x, g = (torch.randn(shape, device='cuda').to(dtype) for _ in range(2))
    x, g = (t.contiguous(memory_format=FORMATS[memory_format]) for t in (x * 2 + 1, g))
    return x.requires_grad_(), g


def step(layer, x, g, seed=0):
    if seed is not None:  # which cannot be set while a graph is captured
        torch.manual_seed(seed)
    y = layer(x)
    return y, *torch.autograd.grad(y, [x, *layer.parameters()], g, allow_unused=True)


@LAYER
@DTYPE
@FORMAT
def test_a_layer_agrees_with_the_plain_formula(name, dtype, memory_format):
    x, g = maps(memory_format, dtype, (4, 70, 29, 31))
    assert backend.route(x) == 'gpu'
    layer = make(name, 70).cuda()
    actual = step(layer, x, g)
    with backend.force('plain'):
        expected = step(layer, x, g)
    for a, b in zip(actual, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            size = b.abs().max().item()
            torch.testing.assert_close(a, b, rtol=0, atol=size * max(4 * torch.finfo(a.dtype).eps, 1e-4))
    assert actual[0].stride() == x.stride()


@LAYER
@FORMAT
def test_a_step_never_waits_for_the_device(name, memory_format):
    x, g = maps(memory_format, torch.bfloat16)
    layer = make(name, 64).cuda()
    step(layer, x, g)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        step(layer, x, g, seed=None)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@LAYER
@FORMAT
def test_a_step_can_be_captured_as_a_cuda_graph(name, memory_format):
    x, g = maps(memory_format, torch.float32)
    layer = make(name, 64).cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(layer, x, g, seed=None)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(layer, x, g, seed=None)
    graph.replay()
    torch.cuda.synchronize()
    assert all(r.isfinite().all() for r in results if r is not None)


@LAYER
@DTYPE
@FORMAT
def test_a_pass_allocates_its_result_and_no_other_map(name, dtype, memory_format):
    x, g = maps(memory_format, dtype)
    layer = make(name, 64).cuda()
    step(layer, x, g)
    before = restart()
    y = layer(x)
    forward = (torch.cuda.max_memory_allocated() - before) / x.nbytes
    before = restart()
    torch.autograd.grad(y, x, g)
    backward = (torch.cuda.max_memory_allocated() - before) / x.nbytes
    assert forward < 1.1
    assert backward < 1.1


def restart():
    """Bytes that are allocated now, from where the peak counts."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def test_maps_of_more_than_two_to_the_31_elements():
    x = torch.zeros(2, 64, 4100, 4100, dtype=torch.float16, device='cuda')
    if torch.cuda.mem_get_info()[0] < 6 * x.nbytes:
        pytest.skip('needs 26 GB')
    x[1, 63] = torch.arange(4100, device='cuda').half() / 4100
    for memory_format in FORMATS.values():
        y = make('ibn_b', 64).cuda()(x.contiguous(memory_format=memory_format))
        assert y[1, 63].float().std() == pytest.approx(1, abs=0.02)
        assert y[0].abs().max() == 0
