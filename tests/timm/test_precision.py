"""Float32 against float64, for every layer and both memory formats, also where means dwarf deviations."""

import copy
import inspect

import pytest
import torch
from expected import LONELY
from torch import nn

from timm_stylenorm import layers
from timm_stylenorm.functional import adain, instance_moments

pytestmark = LONELY

FORMATS = [torch.contiguous_format, torch.channels_last]
LAYERS = [
    name
    for name in layers.__all__
    if 'num_features' in inspect.signature(getattr(layers, name)).parameters and not name.endswith(('1d', '3d'))
    if name != 'DualBatchNorm2d'  # its arithmetic is torch's
]


def errors(actual, expected):
    """Largest difference in units of the largest entry."""
    return [
        ((a.double() - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()
        for a, b in zip(actual, expected, strict=True)
        if b is not None
    ]


def maps(ratio, memory_format, shape=(4, 16, 28, 28)):
    """A map with mean / std around `ratio`, and a gradient."""
    std, mean = torch.rand(2, *shape[:2], 1, 1) + 0.5
    x = torch.randn(shape) * std + ratio * mean
    return [t.contiguous(memory_format=memory_format) for t in (x, torch.randn(shape))]


def randomise(layer, ratio):
    """Parameters off their special initial values; weights that meet the means do not saturate a gate."""
    torch.manual_seed(1)
    for name, p in layer.named_parameters():
        nn.init.uniform_(p, 0.3, 1.3)
        if name.startswith('fc'):
            p.data.div_(10 * (1 + ratio) * p[0].numel())


def outputs(layer, x, g):
    """y and the gradients of x and the parameters."""
    torch.manual_seed(2)
    x = x.detach().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], g, allow_unused=True)]


@pytest.mark.parametrize('memory_format', FORMATS, ids=['NCHW', 'channels_last'])
@pytest.mark.parametrize('ratio', [0, 10, 1000])
@pytest.mark.parametrize('name', LAYERS)
def test_layers_agree_with_float64_to_5e_6(name, ratio, memory_format):
    """Of the largest entry of each tensor, whatever the mean."""
    cls = getattr(layers, name)
    layer = cls(16, **({'p': 1.0} if 'p' in inspect.signature(cls).parameters else {})).train()
    randomise(layer, ratio)
    twin = copy.deepcopy(layer).double()
    x, g = maps(ratio, memory_format)
    assert max(errors(outputs(layer, x, g), outputs(twin, x.double(), g.double()))) < 5e-6


@pytest.mark.parametrize('memory_format', FORMATS, ids=['NCHW', 'channels_last'])
@pytest.mark.parametrize('ratio', [0, 10, 1000])
def test_moments_and_their_gradients_agree_with_float64(ratio, memory_format):
    x, _ = maps(ratio, memory_format)
    results = []
    for z in (x, x.double()):
        z = z.detach().requires_grad_()
        moments = instance_moments(z)
        results.append([*moments, *torch.autograd.grad([m.sum() for m in moments], z)])
    assert max(errors(*results)) < 1e-6


@pytest.mark.parametrize('memory_format', FORMATS, ids=['NCHW', 'channels_last'])
def test_an_image_far_from_zero_changes_no_other(memory_format):
    near, _ = maps(0, memory_format)
    far = near.clone(memory_format=torch.preserve_format)
    far[1, 3] += 1000
    style = torch.randn(4, 16, 5, 5)
    others = [0, 2, 3]
    torch.testing.assert_close(adain(far, style)[others], adain(near, style)[others], rtol=0, atol=1e-6)
