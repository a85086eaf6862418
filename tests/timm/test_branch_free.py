"""Drawing layers without a branch: one graph for a network, for all batch sizes and probabilities."""

import copy

import pytest
import timm
import torch
import torch._dynamo.testing
from expected import LONELY, UNTAKEN
from since import WHOLE_GRAPHS
from torch import nn

import timm_stylenorm
from timm_stylenorm.functional import backend
from timm_stylenorm.layers import CrossNorm
from timm_stylenorm.methods import METHODS

pytestmark = [LONELY, UNTAKEN]

DRAWING = [name for name, row in METHODS.items() if 'branch_free' in row.defaults]


def layer_of(name, p=0.5):
    return METHODS[name].layer(4, p=p, branch_free=True).train()


def test_every_method_with_a_probability_can_do_without_a_branch():
    assert [name for name, row in METHODS.items() if 'p' in row.defaults] == DRAWING


@pytest.mark.parametrize('name', DRAWING)
def test_it_acts_as_often_as_p_says(name):
    layer, x = layer_of(name, p=0.2), torch.randn(3, 4, 4, 4)
    acted = sum(not torch.equal(layer(x), x) for _ in range(300))
    assert 35 < acted < 85
    layer.p = 0.0
    assert torch.equal(layer(x), x)
    assert copy.deepcopy(layer).p == 0.0
    layer.p = 1.0
    assert not torch.equal(layer(x), x)
    assert torch.equal(layer.eval()(x), x)
    assert 'chance' not in layer.state_dict()


def test_crossnorms_draw_for_themselves_as_often_as_together():
    model = nn.Sequential()
    model.convs = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(8))
    timm_stylenorm.add_style(model, 'crossnorm', sites='convs.*', p=0.5, active=2, branch_free=True)
    layers = [layer for _, layer in timm_stylenorm.style_layers(model.train())]
    x = torch.randn(3, 4, 4, 4)
    acted = sum(not torch.equal(layer(x), x) for layer in layers for _ in range(100))
    assert 60 < acted < 140  # of 800, 0.5 * 2 / 8
    with pytest.raises(ValueError, match=r"drawn on the host.*got crop='both'"):
        CrossNorm(4, crop='both', branch_free=True)


@WHOLE_GRAPHS
@pytest.mark.parametrize('name', DRAWING)
@pytest.mark.some(2)
def test_a_layer_is_one_graph_for_all_batch_sizes_and_probabilities(name):
    torch._dynamo.reset()
    graphs = []
    layer = layer_of(name)
    compiled = torch.compile(layer, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph)
    for step in range(10):
        layer.p = (step + 1) / 20
        compiled(torch.randn(3 + step, 4, 5, 5))
    assert len(graphs) <= 2  # the first batch size, then any


@WHOLE_GRAPHS
@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_a_styled_network_is_one_graph_and_equals_eager(name):
    """With a backend that runs the graph as it is, so that it draws what eager mode draws."""
    torch.manual_seed(0)
    style = {'type': name, **({'branch_free': True} if name in DRAWING else {})}
    eager = timm_stylenorm.add_style(timm.create_model('resnet18', num_classes=4), style).train()
    model = copy.deepcopy(eager)
    torch._dynamo.reset()
    count = torch._dynamo.testing.CompileCounterWithBackend('eager')
    compiled = torch.compile(model, fullgraph=True, backend=count)
    for n in (3, 4, 5):
        x = torch.randn(n, 3, 32, 32)
        results = []
        for net in (eager, compiled):
            torch.manual_seed(n)
            with backend.force('plain' if name == 'efdmix' else 'cpu'):  # sorts rank equal values in any order
                y = net(x)
            losses = timm_stylenorm.style_losses(eager if net is eager else model, torch.zeros(n, dtype=torch.long))
            results.append([y, *losses.values()])
        torch.testing.assert_close(results[1], results[0], rtol=1e-2, atol=1e-3)
    assert count.frame_count <= 2
