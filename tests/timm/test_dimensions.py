"""Every method in networks of signals and of clips: it acts, its gradients are finite, and it is of the right form."""

import copy
from contextlib import nullcontext

import pytest
import timm
import torch
from expected import LONELY
from signals import NETWORKS, Block, ResNet1d, inputs
from torch import nn
from torchvision.models import video

import timm_stylenorm
from timm_stylenorm import layers
from timm_stylenorm.dual_bn import routed
from timm_stylenorm.layers.norms import BATCH_NORMS
from timm_stylenorm.methods import ROWS
from timm_stylenorm.recipes import build_recipe
from timm_stylenorm.surgery.attachment import replaces_norm

pytestmark = LONELY

ALWAYS = {'p': 1.0, 'active': 0}
METHODS = [dict(type=m, **{k: v for k, v in ALWAYS.items() if k in row.defaults}) for m, row in ROWS.items()]
CASES = [
    pytest.param(name, style, id=f'{name}-{style["type"]}', marks=marks)
    for name, marks in (
        ('resnet1d', ()),
        ('r3d_18', pytest.mark.slow),
        ('mc3_18', pytest.mark.slow),
        ('r2plus1d_18', pytest.mark.slow),
    )
    for style in METHODS
]


def of_dimension(name):
    return 1 + len(NETWORKS[name][1])


def layers_of(model):
    return [layer for _, layer in timm_stylenorm.style_layers(model)]


@pytest.mark.parametrize(('name', 'style'), CASES)
@pytest.mark.some(4)
def test_acts_and_trains(name, style):
    base = NETWORKS[name][0]()
    model, x = timm_stylenorm.add_style(copy.deepcopy(base), style).train(), inputs(name, 4)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith('.gate'):  # batch norm at the start of the training
            nn.init.constant_(parameter, 0.5)
    with_route = style['type'] == 'dual_bn'
    passive = style['type'] in ('advbn', 'debiased', 'dual_bn')  # a recipe or a route makes them act
    with torch.no_grad():
        assert torch.allclose(model(x), base.train()(x)) == passive
        timm_stylenorm.style_losses(model)
    with routed(model, [False, True, True, False]) if with_route else nullcontext():
        loss = model(x).square().mean()
    losses = timm_stylenorm.style_losses(model, torch.arange(4))
    (loss + sum(losses.values())).backward()
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    idle = {key for key, _ in model.named_parameters() if '.aux_bn.' in key} if passive and not with_route else set()
    assert {*found} == {key for key, _ in model.named_parameters()} - idle
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert model.eval()(x[:1]).isfinite().all()


@pytest.mark.parametrize(('name', 'style'), CASES)
@pytest.mark.some(4)
def test_norms_are_of_the_networks_dimension_and_come_back(name, style):
    base = NETWORKS[name][0]().eval()
    model, x = timm_stylenorm.add_style(copy.deepcopy(base), style).eval(), inputs(name)
    kinds = {type(m) for layer in layers_of(model) for m in layer.modules()} & {*BATCH_NORMS.values()}
    assert kinds <= {BATCH_NORMS[of_dimension(name)]} or style['type'] == 'selfnorm'  # its gates see vectors
    if not any(replaces_norm(layer) and not hasattr(layer, 'to_norm') for layer in layers_of(model)):
        timm_stylenorm.remove_style(model)
        assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]
        assert torch.equal(model(x), base(x))


@pytest.mark.parametrize(('name', 'style'), CASES)
@pytest.mark.some(4)
def test_survives_synchronised_batch_norm(name, style):
    model = timm_stylenorm.add_style(NETWORKS[name][0](), style)
    x = inputs(name)
    expected = copy.deepcopy(model).eval()(x)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
    torch.testing.assert_close(converted(x), expected, rtol=1e-4, atol=1e-4)
    before = nn.SyncBatchNorm.convert_sync_batchnorm(NETWORKS[name][0]())
    dims = {layer.dim for layer in layers_of(timm_stylenorm.add_style(before, style)) if getattr(layer, 'forms', None)}
    assert dims <= {of_dimension(name)}


@pytest.mark.parametrize('name', ['resnet1d', 'r3d_18'])
def test_advbn_trains(name):
    model, x = NETWORKS[name][0](), inputs(name, 4)
    recipe = build_recipe({'type': 'advbn', 'steps': 1, 'lower': 'trainable'})
    recipe.prepare(model)

    def forward_loss(images, parts):
        y = model(images)
        return {part.label('loss'): y[part.rows].square().mean() for part in parts}

    losses = recipe.losses(model.train(), x, torch.arange(4), forward_loss)
    assert len(losses) == 2
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('name', ['resnet1d', 'r3d_18'])
def test_debiased_training_refuses_what_is_no_image(name):
    model = NETWORKS[name][0]()
    recipe = build_recipe({'type': 'debiased', 'styliser': 'pixel'})
    recipe.prepare(model)
    with pytest.raises(ValueError, match=r'recipe debiased.*images \(N, C, H, W\)'):
        recipe.losses(model.train(), inputs(name, 4), torch.arange(4), lambda images, parts: {})


def test_batch_norms_of_vectors_stay():
    model = timm_stylenorm.add_style(ResNet1d(), 'bin')
    assert type(model.neck) is nn.BatchNorm1d
    assert type(model.bn1) is layers.BatchInstanceNorm1d
    with pytest.raises(ValueError, match=r"'neck'.*\(5, 32\).*\(N, C, L\)"):
        timm_stylenorm.add_style(ResNet1d(), 'bin', sites='neck')
    with pytest.raises(ValueError, match=r'replaces batch norm.*BatchNorm1d'):
        timm_stylenorm.add_style(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4)), 'bin', sites='1')


class TwoSignals(nn.Module):
    """Takes two inputs, so that no probe runs."""

    def __init__(self):
        super().__init__()
        self.body = ResNet1d()

    def forward(self, x, y):
        return self.body(x + y)


def test_signals_without_a_probe_are_checked_by_the_first_forward():
    model = timm_stylenorm.add_style(TwoSignals(), 'snr', sites='body.layer2')
    x = torch.randn(2, 1, 96)
    assert model(x, x).shape == (2, 4)
    wrong = timm_stylenorm.add_style(TwoSignals(), 'bin', sites='body.neck')
    with pytest.raises(ValueError, match='expected'):
        wrong(x, x)


@pytest.mark.parametrize('shape', [(4, 3, 20), (4, 3, 5, 6, 7)])
def test_crossnorm_refuses_to_crop_what_has_not_two_axes(shape):
    with pytest.raises(ValueError, match=r"crop='both' takes maps \(N, C, H, W\)"):
        layers.CrossNorm(p=1.0, crop='both').train()(torch.randn(shape))


@pytest.mark.parametrize('dim', [3, 5])
@pytest.mark.parametrize('kind', [layers.BatchInstanceNorm2d, layers.DualBatchNorm2d, layers.IBN])
def test_norms_of_other_dimensions_compute_what_that_of_images_does(kind, dim):
    """The same positions in a row, as an image and as a volume have the same moments."""
    norm = BATCH_NORMS[dim](6)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    other, plain = kind.from_norm(norm), kind(6)
    assert type(other) is kind.forms[dim]
    plain.load_state_dict(other.state_dict())
    x = torch.randn(3, 6, 4, 6)
    shaped = x.flatten(2) if dim == 3 else x.unflatten(3, (2, 3))
    for train in (True, False):
        expected = plain.train(train)(x)
        torch.testing.assert_close(other.train(train)(shaped).reshape_as(x), expected)
    torch.testing.assert_close(other.state_dict(), plain.state_dict())


def test_video_sites_are_those_of_images():
    model = video.r2plus1d_18(num_classes=4)
    names = {row.name for row in timm_stylenorm.list_sites(model)}
    assert names >= {'convs', 'batch_norms', 'stem.conv', 'stage1', 'stage4', 'stage2.sum', 'stage1.norm1', 'blocks'}


def test_the_shared_activation_of_images_is_still_counted():
    """torchvision's ResNet calls one module after each convolution; that of video has activations of its own."""
    styled = timm_stylenorm.add_style(timm.create_model('resnet18', num_classes=4), 'ibn_b')
    assert len(layers_of(styled)) == 3
    assert len(layers_of(timm_stylenorm.add_style(nn.Sequential(ResNet1d()), 'mixstyle', sites='0.layer1'))) == 1
    assert isinstance(Block(4, 4, 1).relu, nn.ReLU)
