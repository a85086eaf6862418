"""Graphs of torch.fx, TorchScript, and models on the meta device: every method is right there, or refused in words."""

import copy
import io

import pytest
import timm
import torch
import torchvision
from expected import LONELY, UNTAKEN
from nets import small
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import timm_stylenorm
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.methods import ROWS

pytestmark = [LONELY, UNTAKEN]

ALWAYS = {'p': 1.0, 'active': 0}


@pytest.fixture(params=ROWS)
def style(request):
    defaults = ROWS[request.param].defaults
    return dict(type=request.param, **{k: v for k, v in ALWAYS.items() if k in defaults})


def build(style, **options):
    return timm_stylenorm.add_style(small('resnet18', num_classes=4, **options), style)


def images(n=2, size=64):
    return torch.randn(n, 3, size, size)


def symbolic(model):
    return fx.symbolic_trace(model)


def extracted(model):
    """torchvision's extractor of the last node, as timm's tests trace models."""
    train, evaluation = get_graph_node_names(model)
    graph = create_feature_extractor(model, train_return_nodes=train[-1:], eval_return_nodes=evaluation[-1:])
    return graph, lambda x: next(iter(graph(x).values()))


def assert_follows(graph, run, model):
    """The graph gives what the model does, in evaluation and in training, where its layers draw when it runs."""
    x = images(4)
    for train in (False, True):
        outputs = []
        for module, forward in ((model, model), (graph, run)):
            torch.manual_seed(3)
            outputs.append(forward(x) if module.train(train) else None)
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('tracer', [symbolic, extracted])
@pytest.mark.some(8)
def test_torch_fx_traces_models(style, tracer):
    model = build(style).eval()
    traced = tracer(copy.deepcopy(model))
    graph, run = traced if isinstance(traced, tuple) else (traced, traced)
    assert_follows(graph, run, model)
    assert {label for label, _ in timm_stylenorm.style_layers(graph)} == {
        label for label, _ in timm_stylenorm.style_layers(model)
    }


def test_a_traced_model_leaves_its_losses():
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), 'snr', num_classes=4)
    graph = fx.symbolic_trace(model).train()
    graph(images())
    assert set(timm_stylenorm.style_losses(graph, torch.tensor([0, 3]))) >= {'snr.stage1', 'snr.stage3'}


def test_an_activation_of_several_calls_is_refused_by_name():
    """torchvision's blocks call one ReLU twice; a graph has no blocks that would count."""
    model = timm_stylenorm.add_style(torchvision.models.resnet18(num_classes=4), 'ibn_b')
    with pytest.raises(NotImplementedError, match=r'ibn_b\.stage1\.sum.*torch\.fx'):
        fx.symbolic_trace(model)
    model(images())  # and it goes on working


class Pair(nn.Module):
    """Takes two inputs, so that no probe runs."""

    def __init__(self):
        super().__init__()
        self.body = small('resnet18', num_classes=4)

    def forward(self, x, y):
        return self.body(x + y)


def test_what_nobody_has_seen_is_refused_until_a_forward():
    model = timm_stylenorm.add_style(Pair(), 'mixstyle', sites='body.layer1').eval()
    with pytest.raises(NotImplementedError, match=r'mixstyle\..*run it once'):
        fx.symbolic_trace(model)
    x = images()
    expected = model(x, x)
    assert torch.equal(fx.symbolic_trace(model)(x, x), expected)


def test_torch_jit_script_is_refused_in_words(style):
    with pytest.raises(NotImplementedError, match=r'torch\.jit\.script does not support style layers.*torch\.export'):
        torch.jit.script(build(style).eval())


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')  # of lengths of parameters, which are constants
@pytest.mark.some(4)
def test_torch_jit_trace_in_evaluation(style):
    model, x = build(style).eval(), images()
    torch.testing.assert_close(torch.jit.trace(model, x)(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_torch_jit_trace_in_training_warns():
    with pytest.warns(StyleNormWarning, match=r'padain: traced in training'):
        torch.jit.trace(build('padain').train(), images(), check_trace=False)


def on_meta(name, **options):
    with torch.device('meta'):
        return small(name, num_classes=4, **options)


def by_argument(name, **options):
    return small(name, num_classes=4, device='meta', **options)


@pytest.mark.parametrize('create', [pytest.param(on_meta, marks=pytest.mark.slow), by_argument])
@pytest.mark.parametrize('method', ROWS)
@pytest.mark.some(4)
def test_a_model_of_the_meta_device_takes_weights(method, create):
    real = small(f'resnet18_{method}', num_classes=4).eval()
    for parameter in real.parameters():
        nn.init.normal_(parameter, std=0.1)
    buffer = io.BytesIO()
    torch.save(real.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    x = images()
    for assign in (False, True):
        model = create(f'resnet18_{method}').eval()
        assert {t.device.type for t in model.state_dict().values()} == {'meta'}
        assert model(x.to('meta')).shape == (2, 4)
        if not assign:
            model.to_empty(device='cpu')
        model.load_state_dict(state, assign=assign)
        expected = real(x)
        assert expected.isfinite().all()
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize('method', ROWS)
@pytest.mark.some(4)
def test_add_style_on_the_meta_device_follows_the_model(method):
    model = timm_stylenorm.add_style(on_meta('resnet18'), method)
    assert {t.device.type for t in model.state_dict().values()} == {'meta'}
    with torch.device('meta'):
        again = timm_stylenorm.add_style(timm.create_model('resnet18', num_classes=4), method)
    assert {t.device.type for t in again.state_dict().values()} == {'meta'}
    again.to_empty(device='cpu')
    assert all(tensor.device.type == 'cpu' for tensor in again.state_dict().values())
