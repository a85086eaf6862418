"""Instance whitening: its losses and its choice of channels."""

import pytest
import torch
import torch.nn.functional as F
from expected import LONELY
from golden_data import assert_matches, load
from nets import small

import timm_stylenorm
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.functional import covariance, whitening_loss
from timm_stylenorm.layers import InstanceWhitening, SelectiveWhitening
from timm_stylenorm.layers.kmeans import split_by_variance
from timm_stylenorm.methods import ROWS as METHODS
from timm_stylenorm.whitening import photometric_view, select_pairs

pytestmark = LONELY


@pytest.mark.parametrize('name', ['irw_a', 'isw_a'])
def test_loss_matches(name):
    d = load(name)
    f = d['f'].requires_grad_()
    loss = whitening_loss(f, d['mask'], d['margin'])
    assert_matches(covariance(f).detach(), d['cov'])
    assert_matches(loss, d['loss'])
    assert_matches(torch.autograd.grad(loss, f)[0], d['grad_f'])


def test_the_layer_normalises_and_has_the_loss_of_the_authors():
    d = load('irw_a')
    pairs = float(d['num_remove_cov'])
    layer = InstanceWhitening(6, loss_weight=1.0, relax=pairs / float(d['margin'])).train()
    x = d['x'].requires_grad_()
    y = layer(x)
    assert_matches(y.detach(), d['f'])
    assert_matches(layer.aux, d['loss'])
    assert_matches(torch.autograd.grad(layer.aux, x)[0], d['grad_x'])


def test_the_chosen_layer_has_the_loss_of_the_authors():
    d = load('isw_a')
    layer = SelectiveWhitening(8, loss_weight=1.0).train()
    x = d['x'].requires_grad_()
    assert layer(x) is not None
    assert layer.aux is None, 'nothing is chosen yet'
    layer.load_state_dict({'mask': d['mask'].bool()})
    layer(x)
    assert_matches(layer.aux, d['loss'])
    assert_matches(torch.autograd.grad(layer.aux, x)[0], d['grad_x'])


def test_the_choice_is_that_of_the_authors():
    d = load('isw_mask_a')
    layer = SelectiveWhitening(7, clusters=int(d['clusters']))
    for batch in d['f']:
        layer.observe(batch)
    assert_matches(layer.variance / layer.batches, d['var_matrix'])
    assert layer.choose(layer.reacting()) == int(d['num_sensitive'])
    assert torch.equal(layer.mask.float(), d['mask'])
    with pytest.raises(RuntimeError, match='no batch was observed'):
        layer.reacting()


def test_what_is_observed_is_the_normalised_map_before_a_fused_activation():
    layer, x = SelectiveWhitening(4).eval(), torch.randn(6, 4, 5, 5)
    layer.act = torch.nn.ReLU()
    layer.observing = True
    assert layer(x).min() == 0
    expected = covariance(torch.nn.functional.instance_norm(x, eps=1e-5)).triu(1).var(0)
    torch.testing.assert_close(layer.variance, expected, rtol=1e-4, atol=1e-6)


def test_k_means_is_optimal():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        count = int(torch.randint(4, 11, (), generator=generator))
        values = torch.rand(count, generator=generator).double().square().sort().values
        cost = {}
        for i in range(1, count - 1):
            for j in range(i + 1, count):
                parts = values[:i], values[i:j], values[j:]
                cost[i, j] = sum(float((p - p.mean()).square().sum()) for p in parts)
        lowest = min(cost, key=cost.get)[0]
        assert int(split_by_variance(values, 3).sum()) == count - lowest
    assert not split_by_variance(torch.zeros(3, 3), 3).any()


def styled(method='isw'):
    return timm_stylenorm.add_style(small('resnet18', num_classes=4), method)


def test_layers_share_the_weight():
    layers = [layer for _, layer in timm_stylenorm.style_layers(styled('irw'))]
    assert [layer.share for layer in layers] == [1 / 3] * 3
    assert [layer.num_features for layer in layers] == [64, 64, 24]


def pictures(count=4, size=64):
    """Smooth coloured areas with edges, normalised: channels of natural pictures are correlated."""
    coarse = torch.rand(count, 3, 4, 4)
    images = F.interpolate(coarse, size, mode='bilinear') + 0.3 * F.interpolate(coarse.round(), size, mode='nearest')
    return (images - images.mean()) / images.std()


@pytest.mark.parametrize('style', METHODS)
def test_a_loss_is_not_zero_on_pictures_at_its_defaults(style):
    options = {'num_classes': 4} if 'num_classes' in METHODS[style].defaults else {}
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), style, **options).train()
    if style == 'isw':
        select_pairs(model, [torch.cat([pictures() * 0.5 + 0.5, pictures()])])
    model(pictures())
    losses = {k: v for k, v in timm_stylenorm.style_losses(model).items() if v.requires_grad}
    assert bool(losses) == (style in ('snr', 'irw', 'isw'))
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, model.conv1.weight, retain_graph=True)
        assert loss > 0, name
        assert gradient.abs().max() > 0, name


def test_a_model_chooses_and_then_has_losses():
    model, images = styled().train(), torch.randn(4, 3, 32, 32)
    model(images)
    assert timm_stylenorm.style_losses(model) == {}
    modes = [m.training for m in model.modules()]
    statistics = model.layer1[0].bn1.running_mean.clone()
    chosen = select_pairs(model, [torch.cat([images * 0.3 + 1, images]) for _ in range(2)])
    assert list(chosen) == ['bn1', 'layer1.1.act2.style.isw', 'layer2.1.act2.style.isw']
    assert all(count > 0 for count in chosen.values())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model.layer1[0].bn1.running_mean, statistics)
    model(images)
    losses = timm_stylenorm.style_losses(model)
    assert list(losses) == ['isw.stem.norm', 'isw.stage1.sum', 'isw.stage2.sum']
    sum(losses.values()).backward()
    assert model.conv1.weight.grad.isfinite().all()
    twin = styled().train()
    twin.load_state_dict(model.state_dict())
    twin(images)
    assert len(timm_stylenorm.style_losses(twin)) == 3, 'the choice is part of the state'


def test_a_layer_for_which_nothing_reacts_in_every_trial_is_told_of():
    """Without a view, an image is compared with itself: no covariance varies."""
    model, image = styled(), torch.randn(1, 3, 32, 32)
    with pytest.warns(StyleNormWarning, match=r'isw at bn1, layer1.*: no pair of channels reacts in each of 2 trials'):
        chosen = select_pairs(model, [torch.cat([image, image])], trials=2)
    assert set(chosen.values()) == {0}


def test_choosing_from_nothing_is_refused():
    model = styled()
    with pytest.raises(ValueError, match='no batch to choose from'):
        select_pairs(model, [])
    with pytest.raises(ValueError, match='no batch to choose from'):
        select_pairs(model, iter([torch.randn(2, 3, 32, 32)]), trials=2)
    with pytest.raises(ValueError, match='at least one trial, got 0'):
        select_pairs(model, [], trials=0)
    with pytest.raises(ValueError, match='ResNet has no instance selective whitening'):
        select_pairs(small('resnet18'), [])
    assert not any(m.observing for m in model.modules() if isinstance(m, SelectiveWhitening))


def test_photometric_views_keep_shape_and_type_and_differ_between_images():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    images[1] = images[0]
    views = photometric_view(images)
    assert (views.shape, views.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(views[0], images[0])
    assert not torch.equal(views[0], views[1])
