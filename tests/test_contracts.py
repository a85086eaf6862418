"""What every method of the table promises to every model. A new row is tested by being in the table."""

import copy
import io
import pickle

import pytest
import timm
import torch
from mmengine.model import convert_sync_batchnorm
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from torch import nn

import timm_stylenorm
from timm_stylenorm.inject import _run_style
from timm_stylenorm.methods import METHODS

# Every row, acting in every training forward; and once more with its loss where it has one.
STYLES = [dict(type=name, **(dict(p=1.0) if 'p' in row.defaults else {})) for name, row in METHODS.items()]
STYLES += [dict(type=name, num_classes=4) for name, row in METHODS.items() if 'num_classes' in row.defaults]
ARCHITECTURES = [
    'resnet18', 'resnet50', 'resnext50_32x4d', 'seresnet50', 'densenet121', 'efficientnet_b0', 'mobilenetv3_large_100',
    'regnety_008', 'convnext_tiny', 'vgg16_bn', 'hrnet_w18', 'resnetv2_50', 'dla34',
]  # fmt: skip
NO_SITE = {
    (name, 'hrnet_w18') for name, row in METHODS.items() if 'stage1' in row.sites
}  # its stages return one map for each resolution


@pytest.fixture(params=STYLES, ids=lambda style: style['type'] + '-with-loss' * ('num_classes' in style))
def style(request):
    return request.param


@pytest.fixture
def method(style):
    return style['type']


def build(style, arch='resnet18'):
    return timm_stylenorm.add_style(timm.create_model(arch, num_classes=4), style)


def layers_of(model):
    return [layer for _, layer in timm_stylenorm.style_layers(model)]


def images(n=2, size=64):
    return torch.randn(n, 3, size, size)


def train_step_gradients(model, x, seed=1):
    """Gradients by name, and the style losses, of one training step."""
    torch.manual_seed(seed)
    model.train().zero_grad()
    loss = model(x).float().square().mean()
    losses = timm_stylenorm.style_losses(model, torch.arange(len(x)) % 4)
    (loss + sum(losses.values())).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], **tolerance, msg=lambda m, key=key: f'{key}: {m}')


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_trains_with_finite_gradients_or_names_the_missing_site(style, method, arch):
    model = timm.create_model(arch, num_classes=4)
    if (method, arch) in NO_SITE:
        keys = list(model.state_dict())
        with pytest.raises(ValueError, match='site'):
            timm_stylenorm.add_style(model, style)
        assert list(model.state_dict()) == keys, 'a failure leaves the model as it was'
        return
    gradients = train_step_gradients(timm_stylenorm.add_style(model, style), images())
    assert set(gradients) == {k for k, p in model.named_parameters() if p.requires_grad}
    assert all(g.isfinite().all() for g in gradients.values())


def test_acts_in_training(style):
    model, x = build(style).train(), images(4)
    torch.manual_seed(0)
    styled = model(x)
    timm_stylenorm.remove_style(model)
    assert not torch.allclose(styled, model(x))


def test_base_keys_never_change(style, method):
    base = timm.create_model('resnet18', num_classes=4)
    model = build(style)
    ours = {name for name, _ in timm_stylenorm.style_parameters(model)}
    assert set(model.state_dict()) - set(base.state_dict()) == ours
    assert all(f'.style.{method}.' in name for name in ours)
    missing, unexpected = model.load_state_dict(base.state_dict(), strict=False)
    assert set(missing) == ours
    assert not unexpected
    missing, unexpected = base.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert set(unexpected) == ours


def test_a_copy_runs_its_own_layers(style):
    model = build(style).train()
    twin = copy.deepcopy(model)
    called = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda *_: called.append('original'))
    for layer in layers_of(twin):
        layer.register_forward_hook(lambda *_: called.append('copy'))
    twin(images())
    assert set(called) == {'copy'}
    assert len(called) == len(layers_of(model))


def test_copies_and_pickles_after_a_training_forward(style):
    model = build(style).train()
    model(images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        x = images()
        assert torch.equal(twin.eval()(x), model.eval()(x))
        assert len(layers_of(twin)) == len(layers_of(model)) > 0
        model.train()


def test_a_saved_model_loads_whole(style):
    buffer = io.BytesIO()
    model = build(style).eval()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin = build(style).eval()
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    x = images()
    assert torch.equal(twin(x), model(x))


@pytest.mark.parametrize(
    'convert', [nn.SyncBatchNorm.convert_sync_batchnorm, timm_convert_sync_batchnorm, convert_sync_batchnorm]
)
def test_sync_batchnorm_conversion_keeps_the_layers(style, convert):
    model = build(style)
    count, keys = len(layers_of(model)), list(model.state_dict())
    converted = convert(model)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in converted.modules())
    assert len(layers_of(converted)) == count
    assert list(converted.state_dict()) == keys
    assert sum(_run_style in m._forward_hooks.values() for m in converted.modules()) == count


def test_channels_last_gives_the_same_gradients(style):
    model, x = build(style), images()
    expected = train_step_gradients(model, x)
    model.to(memory_format=torch.channels_last)
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda m, a, y: seen.append((a[0], y)))
    actual = train_step_gradients(model, x.contiguous(memory_format=torch.channels_last))
    assert all(y.stride() == x.stride() and y.shape == x.shape for x, y in seen)
    assert_same(actual, expected, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(style, dtype):
    model = build(style).train()
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda m, a, y: seen.append((a[0].dtype, y.dtype)))
    with torch.autocast('cpu', dtype=dtype):
        y = model(images())
    y.float().sum().backward()
    assert all(a == b for a, b in seen)
    assert any(a == dtype for a, _ in seen)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_checkpointing_gives_equal_gradients(style):
    model, x = build(style), images()
    expected = train_step_gradients(model, x)
    model.set_grad_checkpointing(True)
    for module in model.modules():  # the first pass moved the running statistics only
        assert not isinstance(module, nn.Dropout) or module.p == 0
    assert_same(train_step_gradients(model, x), expected, rtol=1e-4, atol=1e-6)


def test_compiles_without_a_graph_break(style):
    model = build(style)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend='eager')
    x = images()
    torch.manual_seed(0)
    expected = model.train()(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled.train()(x), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(compiled.eval()(x), model.eval()(x), rtol=1e-3, atol=1e-4)


def test_exports_in_eval(style):
    model, x = build(style).eval(), images()
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


def test_exports_to_onnx_in_eval(style, tmp_path):
    ort = pytest.importorskip('onnxruntime')
    model, x = build(style).eval(), images()
    path = tmp_path / 'model.onnx'
    torch.onnx.export(model, (x,), str(path), dynamo=True, verbose=False)
    (y,) = ort.InferenceSession(str(path)).run(None, {'x': x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('shape', [(1, 7, 5, 5), (3, 7, 1, 1), (2, 1, 4, 4), (3, 7, 6, 1)])
@pytest.mark.parametrize('fill', ['random', 'constant'])
def test_layer_edges(style, method, shape, fill):
    layer = METHODS[method].layer(shape[1], **{k: v for k, v in style.items() if k != 'type'}).train()
    x = torch.randn(shape) if fill == 'random' else torch.full(shape, 2.5)
    x.requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_features_only_carries_the_layers(method):
    base = timm.create_model('resnet18', features_only=True)
    model = timm.create_model(f'resnet18_{method}', features_only=True, out_indices=(1, 2, 3, 4))
    assert layers_of(model)
    assert [y.shape[1] for y in model(images())] == base.feature_info.channels()[1:]


def test_reset_classifier_keeps_the_layers(style):
    model = build(style)
    count = len(layers_of(model))
    model.reset_classifier(9)
    assert model(images()).shape == (2, 9)
    assert len(layers_of(model)) == count


def test_removal_gives_the_base_model_back(method):
    base = timm.create_model('resnet18', num_classes=4).eval()
    model, x = copy.deepcopy(base), images()
    timm_stylenorm.remove_style(timm_stylenorm.add_style(model, method))
    assert list(model.state_dict()) == list(base.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(model(x), base(x))
    assert layers_of(timm_stylenorm.add_style(model, method)), 'and the method can be added again'


def test_added_twice_is_refused(style, method):
    model = build(style)
    count = len(layers_of(model))
    with pytest.raises(ValueError, match=f"'{method}' is already at"):
        timm_stylenorm.add_style(model, method)
    assert len(layers_of(model)) == count


def test_defaults_are_stated_in_the_signature(method):
    row = METHODS[method]
    assert all(v is not None or k == 'num_features' for k, v in row.defaults.items())
    assert row.paper
    assert row.layer.__doc__
    with pytest.raises(TypeError, match=r"unknown argument of style method .*'q'"):
        timm_stylenorm.add_style(timm.create_model('resnet18'), method, q=1)


def test_follows_the_torch_seed_alone(style):
    model, x = build(style).train(), images(4)
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(model(x))
    assert torch.equal(*outputs)


def test_device_and_dtype_follow_the_model(method):
    model = timm_stylenorm.add_style(timm.create_model('resnet18', num_classes=4).double(), method)
    assert {p.dtype for p in model.parameters()} == {torch.double}
    assert model.eval()(images().double()).dtype == torch.double
