"""What every method of the table promises to every model. A new row is tested by being in the table."""

import copy
import io
import pickle
import re
from contextlib import nullcontext

import pytest
import timm
import torch
from expected import LONELY, UNTAKEN
from nets import small
from since import HALF_ON_CPU, WHOLE_GRAPHS, older, since
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from torch import nn

import timm_stylenorm
from timm_stylenorm.dual_bn import routed
from timm_stylenorm.methods import ROWS as METHODS
from timm_stylenorm.recipes import LossTerm, build_recipe
from timm_stylenorm.recipes.apply import recipe_of as needed_recipe
from timm_stylenorm.surgery.attachment import replaces_norm
from timm_stylenorm.surgery.hooks import styled_modules

pytestmark = LONELY

# Every row, acting in every training forward, and once more with its loss where it has one. At few blocks, since
# exchanged statistics amplify rounding from one block to the next.
ALWAYS = {'p': 1.0, 'active': 0}
STYLES = [
    dict(type=name, **{k: v for k, v in ALWAYS.items() if k in row.defaults})
    | ({'sites': ('stage1.blocks',)} if row.sites == ('blocks',) else {})
    for name, row in METHODS.items()
]
STYLES += [dict(type=name, num_classes=4) for name, row in METHODS.items() if 'num_classes' in row.defaults]
RECIPE_OPTIONS = {'advbn': dict(lower='trainable', steps=1), 'debiased': dict(styliser='pixel')}
ARCHITECTURES = ['resnet18', 'resnet50', 'mobilenetv3_small_100', 'convnext_tiny']
ARCHITECTURES += [
    pytest.param(name, marks=pytest.mark.slow)
    for name in (
        'efficientnet_b0',
        'regnety_008',
        'resnext50_32x4d',
        'seresnet50',
        'densenet121',
        'vgg16_bn',
        'hrnet_w18',
        'resnetv2_50',
        'dla34',
    )
]


def name_of(style):
    return style['type'] + '-with-loss' * ('num_classes' in style)


def always(*names):
    """All styles, of which these are tested by default and the others by the slow tests."""
    marks = dict.fromkeys(names, ())
    return [pytest.param(s, id=name_of(s), marks=marks.get(name_of(s), pytest.mark.slow)) for s in STYLES]


# one of each kind: random, with a loss, in place of a norm, with a gate
KINDS = always('padain', 'snr-with-loss', 'ibn_a', 'bin')


@pytest.fixture(params=STYLES, ids=name_of)
def style(request):
    return request.param


@pytest.fixture
def method(style):
    return style['type']


def build(style):
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), style)
    for layer in layers_of(model):
        if hasattr(layer, 'select'):  # a loss that begins with a choice
            layer.mask.fill_(True).triu_(1)
            layer.chosen = int(layer.mask.sum())
    return model


def layers_of(model):
    return [layer for _, layer in timm_stylenorm.style_layers(model)]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('method', METHODS)
def test_what_is_added_is_in_the_mode_of_the_model(method, training):
    model = timm_stylenorm.add_style(small('resnet18').train(training), method)
    assert layers_of(model)
    assert {module.training for module in model.modules()} == {training}


def refused(action):
    """The message of the ValueError that an action raises, or None."""
    try:
        action()
    except ValueError as error:
        return str(error)


def images(n=2, size=64):
    return torch.randn(n, 3, size, size)


def recipe_of(model):
    """The recipe without which the layers of a model do nothing, or None."""
    name = needed_recipe(model)
    return build_recipe({'type': name, **RECIPE_OPTIONS[name]}) if name else None


def train_step_gradients(model, x, seed=1, with_recipe=True):
    """Gradients by name of one training step, with the style losses."""
    torch.manual_seed(seed)
    model.train().zero_grad()

    def forward_loss(images, parts):
        y = model(images).float()
        losses = {part.label('loss'): part.weight * y[part.rows].square().mean() for part in parts}
        return {**losses, **timm_stylenorm.style_losses(model, torch.arange(len(x)) % 4)}

    if with_recipe and (recipe := recipe_of(model)):
        recipe.prepare(model)
        losses = recipe.losses(model, x, torch.arange(len(x)) % 4, forward_loss)
        assert len(losses) > 1
    else:
        losses = forward_loss(x, [LossTerm(None)])
    sum(losses.values()).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


def assert_same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], **tolerance, msg=lambda m, key=key: f'{key}: {m}')


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.some(17)
def test_trains_with_finite_gradients_or_names_what_is_missing(style, method, arch):
    model = small(arch, num_classes=4)
    keys = list(model.state_dict())
    if refusal := refused(lambda: timm_stylenorm.add_style(model, style)):
        assert not timm.is_model(f'{arch}_{method}'), 'a registered name works'
        assert re.search('site|norm', refusal)
        assert list(model.state_dict()) == keys, 'a failure leaves the model as it was'
        return
    with routed(model, [False, True]) if method == 'dual_bn' else nullcontext():
        gradients = train_step_gradients(model, images())
    assert set(gradients) == {k for k, p in model.named_parameters() if p.requires_grad}
    assert all(g.isfinite().all() for g in gradients.values())


@pytest.mark.some(4)
def test_acts_in_training_unless_a_recipe_or_a_route_makes_it(style, method):
    base = small('resnet18', num_classes=4, zero_init_last=False)  # so that every branch counts
    model, x = timm_stylenorm.add_style(copy.deepcopy(base), style), images(4)
    for name, parameter in model.named_parameters():
        if name.endswith('.gate'):  # batch norm at the start of the training
            nn.init.constant_(parameter, 0.5)
    assert torch.allclose(model.train()(x), base.train()(x)) == (method in ('advbn', 'debiased', 'dual_bn'))


@pytest.mark.some(4)
def test_base_keys_never_change(style, method):
    base = small('resnet18', num_classes=4)
    model = build(style)
    replaced = tuple(f'{k}.' for k, m in model.named_modules() if replaces_norm(m))
    ours = {k for k in model.state_dict() if f'.style.{method}.' in k}
    theirs = {k for k in model.state_dict() if k.startswith(replaced)} if replaced else set()
    assert set(model.state_dict()) - ours - theirs <= set(base.state_dict())
    assert all(k.startswith(replaced) for k in set(base.state_dict()) - set(model.state_dict()))
    missing, unexpected = model.load_state_dict(base.state_dict(), strict=False)
    assert set(missing) <= ours | (theirs - set(base.state_dict())), 'a norm that replaced one takes the plain weights'
    assert not unexpected
    missing, _ = base.load_state_dict(model.state_dict(), strict=False)
    assert all(k.startswith(replaced) for k in missing)


@pytest.mark.some(4)
def test_norm_replacements_start_from_the_plain_weights(style):
    base = small('resnet18', num_classes=4)
    for parameter in base.parameters():
        nn.init.normal_(parameter)
    taken = dict(timm_stylenorm.add_style(copy.deepcopy(base), style).named_parameters())
    model = build(style)
    model.load_state_dict(base.state_dict(), strict=False)
    loaded = {k: v for k, v in model.named_parameters() if '.style.' not in k}
    assert loaded
    assert all(torch.equal(taken[k], v) for k, v in loaded.items())


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


@pytest.mark.some(4)
def test_copies_and_pickles_after_a_training_forward(style):
    model = build(style).train()
    model(images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        x = images()
        assert torch.equal(twin.eval()(x), model.eval()(x))
        assert len(layers_of(twin)) == len(layers_of(model)) > 0
        model.train()


@pytest.mark.some(4)
def test_a_saved_model_loads_whole(style):
    buffer = io.BytesIO()
    model = build(style).eval()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    twin = build(style).eval()
    twin.load_state_dict(torch.load(buffer, weights_only=True))
    x = images()
    assert torch.equal(twin(x), model(x))


def mmengine_convert_sync_batchnorm(model):
    return pytest.importorskip('mmengine.model').convert_sync_batchnorm(model)


@pytest.mark.parametrize(
    'convert', [nn.SyncBatchNorm.convert_sync_batchnorm, timm_convert_sync_batchnorm, mmengine_convert_sync_batchnorm]
)
@pytest.mark.some(13)
def test_sync_batchnorm_conversion_keeps_the_layers(style, convert):
    model = build(style)
    count, places, keys = len(layers_of(model)), len(styled_modules(model)), list(model.state_dict())
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    converted = convert(model)
    assert sum(isinstance(m, nn.SyncBatchNorm) for m in converted.modules()) >= norms
    assert len(layers_of(converted)) == count
    assert list(converted.state_dict()) == keys
    assert len(styled_modules(converted)) == places


@pytest.mark.parametrize('style', KINDS)
def test_channels_last_gives_the_same_gradients(style):
    model, x = build(style).double(), images(4).double()
    expected = train_step_gradients(copy.deepcopy(model), x)
    model.to(memory_format=torch.channels_last)
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda m, a, y: seen.append((a[0], y)))
    actual = train_step_gradients(model, x.contiguous(memory_format=torch.channels_last))
    assert all(y.stride() == x.stride() and y.shape == x.shape for x, y in seen)
    assert_same(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('style', KINDS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=HALF_ON_CPU)])
@pytest.mark.some(2)
def test_autocast(style, dtype):
    model = build(style).train()
    seen = []
    for layer in layers_of(model):
        layer.register_forward_hook(lambda m, a, y: seen.append((a[0].dtype, y.dtype)))
    with torch.autocast('cpu', dtype=dtype):
        y = model(images())
        losses = timm_stylenorm.style_losses(model, torch.tensor([0, 3]))
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    (y.float().sum() + sum(losses.values())).backward()
    assert all(a == b for a, b in seen)
    assert any(a == dtype for a, _ in seen)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.some(4)
def test_checkpointing_gives_equal_gradients(style):
    model, x = build(style), images()
    expected = train_step_gradients(model, x, with_recipe=False)  # recipes refuse it
    model.set_grad_checkpointing(True)
    for module in model.modules():  # the first pass moved the running statistics only
        assert not isinstance(module, nn.Dropout) or module.p == 0
    assert_same(train_step_gradients(model, x, with_recipe=False), expected, rtol=1e-4, atol=1e-6)


@WHOLE_GRAPHS
@pytest.mark.parametrize('style', always('padain', 'snr-with-loss'))
@pytest.mark.some(1)
def test_compiles_without_a_graph_break(style):
    torch._dynamo.reset()
    model = build(style)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend='eager')
    x = images()
    torch.manual_seed(0)
    expected = model.train()(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled.train()(x), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(compiled.eval()(x), model.eval()(x), rtol=1e-3, atol=1e-4)


OLD_EXPORT = older('torch', '2.6')
BATCH = None if OLD_EXPORT else ({0: torch.export.Dim('n')},)


@since('torch', '2.6', 'torch.export takes few programs with a dynamic batch')
@pytest.mark.parametrize('style', always('snr-with-loss', 'ibn_a', 'selfnorm'))
@pytest.mark.some(1)
def test_exports_in_eval_for_any_batch(style):
    model = build(style).eval()
    exported = torch.export.export(model, (images(3),), dynamic_shapes=BATCH).module()
    for n in (1, 2, 5):
        x = images(n)
        torch.testing.assert_close(exported(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')  # of lengths of parameters, which are constants
@pytest.mark.parametrize(
    ('style', 'dynamo'),
    [
        pytest.param(*case.values, dynamo, id=f'{case.id}-{dynamo}', marks=case.marks)
        for dynamo, named in ((True, () if OLD_EXPORT else ('snr-with-loss',)), (False, ('ibn_a',)))
        for case in always(*named)
    ],
)
@pytest.mark.some(1)
def test_exports_to_onnx_in_eval_for_any_batch(style, dynamo, tmp_path):
    ort = pytest.importorskip('onnxruntime')
    model, path = build(style).eval(), str(tmp_path / 'model.onnx')
    axes = {'dynamic_shapes': BATCH} if dynamo else {'dynamic_axes': {'x': {0: 'n'}}, 'input_names': ['x']}
    form = {} if OLD_EXPORT else {'dynamo': dynamo}
    torch.onnx.export(model, (images(3),), path, verbose=False, **form, **axes)
    session = ort.InferenceSession(path)
    for n in (1, 2, 5):
        x = images(n)
        (y,) = session.run(None, {'x': x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('shape', [(1, 7, 5, 5), (3, 7, 1, 1), (2, 1, 4, 4), (3, 7, 6, 1)])
@pytest.mark.parametrize('fill', ['random', 'constant'])
def test_layer_edges(style, method, shape, fill):
    options = {k: v for k, v in style.items() if k not in ('type', 'sites')}
    if refusal := refused(lambda: METHODS[method].layer(shape[1], **options)):
        assert shape[1] == 1
        assert 'channels' in refusal
        return
    layer = METHODS[method].layer(shape[1], **options).train()
    x = torch.randn(shape) if fill == 'random' else torch.full(shape, 2.5)
    x.requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_features_only_carries_the_layers(method):
    base = small('resnet18', features_only=True)
    model = small(f'resnet18_{method}', features_only=True, out_indices=(1, 2, 3, 4))
    assert layers_of(model)
    assert [y.shape[1] for y in model(images())] == base.feature_info.channels()[1:]


def test_reset_classifier_keeps_the_layers(style):
    model = build(style)
    count = len(layers_of(model))
    model.reset_classifier(9)
    assert model(images()).shape == (2, 9)
    assert len(layers_of(model)) == count


def test_removal_gives_the_base_model_back_or_changes_nothing(method):
    base = small('resnet18', num_classes=4).eval()
    model, x = copy.deepcopy(base), images()
    timm_stylenorm.add_style(model, method)
    if any(not hasattr(m, 'to_norm') for m in model.modules() if replaces_norm(m)):
        keys = list(model.state_dict())
        with pytest.raises(ValueError, match=f'{method}.* has not kept its statistics'):
            timm_stylenorm.remove_style(model)
        assert list(model.state_dict()) == keys
        return
    timm_stylenorm.remove_style(model)
    assert list(model.state_dict()) == list(base.state_dict())
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(model(x), base(x))
    assert layers_of(timm_stylenorm.add_style(model, method)), 'and the method can be added again'


@pytest.mark.some(4)
def test_switched_off_is_the_identity_or_the_norm_it_replaced(style, method):
    base = small('resnet18', num_classes=4)
    model, x = timm_stylenorm.add_style(copy.deepcopy(base), style).train(), images(4)
    with timm_stylenorm.style_disabled(model) as same:
        assert same is model
        ran = []
        for layer in layers_of(model):
            layer.register_forward_hook(lambda layer, x, y: ran.append(layer))
        model(x)
        assert all(replaces_norm(layer) for layer in ran), 'an attached layer has run'
        for layer in layers_of(model):
            if layer.is_norm and not hasattr(layer, 'to_norm'):
                continue
            y = layer(z := torch.randn(3, getattr(layer, 'num_features', 4), 5, 5))
            expected = z if not replaces_norm(layer) else layer.to_norm()(z)
            torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        assert timm_stylenorm.style_losses(model, torch.arange(4)) == {}
    assert all(layer.enabled for layer in layers_of(model))


def test_added_twice_is_refused(style, method):
    model = build(style)
    count = len(layers_of(model))
    with pytest.raises(ValueError, match=f"'({method}|dual_bn)' is already at"):
        timm_stylenorm.add_style(model, method)
    assert len(layers_of(model)) == count


def test_defaults_are_stated_in_the_signature(method):
    row = METHODS[method]
    assert all(v is not None or k in ('num_features', 'num_classes') for k, v in row.defaults.items())
    assert row.paper
    assert row.layer.__doc__
    with pytest.raises(TypeError, match=r"unknown argument of style method .*'q'"):
        timm_stylenorm.add_style(small('resnet18'), method, q=1)


@UNTAKEN
def test_follows_the_torch_seed_alone(style):
    model, x = build(style).train(), images(4)
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(model(x))
    assert torch.equal(*outputs)


def test_device_and_dtype_follow_the_model(method):
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4).double(), method)
    assert {p.dtype for p in model.parameters()} == {torch.double}
    assert model.eval()(images().double()).dtype == torch.double
