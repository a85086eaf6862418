"""Layers in the place of batch norm: its kind, its mode, its state, and what they cannot take over."""

import copy
import warnings

import pytest
import timm
import torch
from expected import LONELY
from nets import small
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from timm_stylenorm import add_style
from timm_stylenorm.layers import IBN, BatchInstanceNorm2d, DomainNorm2d, SelfNorm
from timm_stylenorm.surgery.sites import find_sites
from timm_stylenorm.surgery.structure import out_channels

pytestmark = LONELY

GROUP = object()  # stands for a process group; only handed on


def reverted(model):
    """What mmengine makes of synchronised norms where there is no GPU."""
    return pytest.importorskip('mmengine.model').revert_sync_batchnorm(model)


def trained(norm, channels=4):
    """The norm with weights and statistics that are not those it starts from."""
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(channels) + 0.5)
    return norm


def test_ibn_stays_synchronised_in_the_group_of_the_norm_it_replaces():
    norm = trained(nn.SyncBatchNorm(4, eps=1e-3, process_group=GROUP)).eval()
    bn = IBN.from_norm(norm).BN
    assert type(bn) is nn.SyncBatchNorm
    assert bn.process_group is GROUP
    assert bn.eps == 1e-3
    assert not bn.training
    assert torch.equal(bn.weight, norm.weight[2:])
    assert torch.equal(bn.running_var, norm.running_var[2:])


@pytest.mark.parametrize('training', [True, False])
def test_ibn_works_alike_with_plain_synchronised_and_reverted_batch_norm(training):
    plain = trained(nn.BatchNorm2d(4))
    layers = [IBN.from_norm(plain), IBN.from_norm(nn.SyncBatchNorm.convert_sync_batchnorm(plain))]
    layers.append(reverted(IBN.from_norm(nn.SyncBatchNorm.convert_sync_batchnorm(plain))))
    assert len({type(layer.BN) for layer in layers}) == 3
    x = torch.randn(3, 4, 5, 5)
    expected = layers[0].train(training)(x)
    for layer in layers[1:]:
        torch.testing.assert_close(layer.train(training)(x), expected)
        torch.testing.assert_close(layer.BN.running_var, layers[0].BN.running_var)


def test_a_reverted_ibn_network_trains_on_the_cpu():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(small('resnet18', num_classes=2))
    model = reverted(add_style(model, 'ibn_a'))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(m.BN.weight.grad is not None for m in model.modules() if isinstance(m, IBN))


def test_bin_stays_synchronised_and_has_nothing_to_warn_of():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(small('resnet18', num_classes=2))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        add_style(model, 'bin')
    assert all(type(m.bn) is nn.SyncBatchNorm for m in model.modules() if isinstance(m, BatchInstanceNorm2d))


def test_bin_is_silent_about_plain_batch_norm():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        BatchInstanceNorm2d.from_norm(nn.BatchNorm2d(4))


@pytest.mark.parametrize('training', [True, False])
def test_switched_off_bin_alone_is_batch_norm(training):
    norm = trained(nn.BatchNorm2d(4)).train(training)
    layer = BatchInstanceNorm2d(4).train(training)
    layer.load_state_dict(norm.state_dict(), strict=False)
    nn.init.constant_(layer.gate, 0.3)
    layer.enabled = False
    assert layer.attachment is None
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(layer(x), norm(x))


@pytest.mark.parametrize('kind', [IBN, DomainNorm2d])
def test_other_norm_layers_alone_cannot_be_switched_off(kind):
    layer, x = kind(4).eval(), torch.randn(3, 4, 5, 5)
    expected = layer(x)
    layer.enabled = False
    assert torch.equal(layer(x), expected)
    assert not torch.equal(expected, x)


@pytest.mark.parametrize('layer', [BatchInstanceNorm2d(4), IBN(4), SelfNorm(4), SelfNorm(4, two=True)])
def test_training_on_one_value_for_each_channel_leaves_the_statistics_alone(layer):
    for _ in range(20):
        layer.train()(torch.randn(6, 4, 3, 3) + 2)
    x = torch.randn(2, 4, 3, 3) + 2
    expected = layer.eval()(x)
    for _ in range(50):
        assert layer.train()(torch.randn(1, 4, 1, 1)).isfinite().all()
    assert torch.equal(layer.eval()(x), expected)


@pytest.mark.parametrize('two', [False, True])
def test_selfnorm_gates_one_image_in_training_as_in_evaluation(two):
    layer = SelfNorm(4, two)
    for _ in range(20):
        layer(torch.randn(6, 4, 3, 3) * 3 + 2)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    x = torch.randn(1, 4, 5, 5)
    y = layer.train()(x)
    y.sum().backward()
    assert layer.g_fc.weight.grad.abs().sum() > 0
    assert torch.equal(y, layer.eval()(x))
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


@pytest.mark.parametrize('frozen', [['g_bn'], ['g_bn', 'f_bn']])
def test_selfnorm_looks_at_the_mode_of_its_batch_norms(frozen):
    layer, x = SelfNorm(4, two=True).train(), torch.randn(5, 4, 3, 3) + 1
    evaluated = copy.deepcopy(layer).eval()(x)
    for name in frozen:
        layer.get_submodule(name).eval()
    y = layer(x)
    for name in ('g_bn', 'f_bn'):
        assert layer.get_submodule(name).num_batches_tracked == (name not in frozen)
    assert torch.equal(y, evaluated) == (len(frozen) == 2)
    torch.testing.assert_close((y - y.mean((2, 3), True)), evaluated - evaluated.mean((2, 3), True))  # g acts here


@pytest.mark.parametrize('kind', [nn.BatchNorm2d, timm.layers.BatchNormAct2d])
@pytest.mark.parametrize('synced', [False, True])
@pytest.mark.parametrize('trains', [True, False])
def test_bin_gives_the_kind_of_norm_back_that_it_replaced(kind, synced, trains):
    norm = trained(kind(4, eps=1e-3, momentum=0.2)).eval()
    if synced:
        norm = timm.layers.convert_sync_batchnorm(norm, GROUP)
    norm.bias.requires_grad_(trains)
    layer = BatchInstanceNorm2d.from_norm(norm)
    assert layer.weight.requires_grad
    assert layer.bias.requires_grad == trains
    back = layer.to_norm()
    assert type(back) is type(norm)
    assert back.bias.requires_grad == trains
    assert getattr(back, 'process_group', None) is (GROUP if synced else None)
    assert (back.eps, back.momentum, back.training) == (1e-3, 0.2, False)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(back(x), norm(x))


def test_weights_of_the_norm_stay_frozen_and_what_comes_with_the_layer_trains():
    for kind, added in ((IBN, {'IN.weight', 'IN.bias'}), (BatchInstanceNorm2d, {'gate'}), (DomainNorm2d, set())):
        layer = kind.from_norm(nn.BatchNorm2d(4).requires_grad_(False))
        assert {name for name, p in layer.named_parameters() if p.requires_grad} == added


@pytest.mark.parametrize('kind', [IBN, BatchInstanceNorm2d, DomainNorm2d])
@pytest.mark.parametrize('option', ['affine', 'track_running_stats'])
def test_a_norm_without_weights_or_statistics_is_refused(kind, option):
    with pytest.raises(ValueError, match=f'{kind.__name__} cannot replace BatchNorm2d with {option}=False'):
        kind.from_norm(nn.BatchNorm2d(4, **{option: False}))


@pytest.mark.parametrize('name', ['resnet18', 'efficientnet_b0'])  # torchvision's frozen norm, and timm's with act
@pytest.mark.parametrize('method', ['bin', 'ibn_a', 'domainnorm'])
@pytest.mark.some(2)
def test_frozen_batch_norms_are_refused_by_name(name, method):
    model = timm.layers.freeze_batch_norm_2d(small(name, num_classes=2))
    with pytest.raises(ValueError, match=r'cannot replace FrozenBatchNorm(Act)?2d: it is frozen; unfreeze the model'):
        add_style(model, method, sites='batch_norms')


def test_a_frozen_model_has_the_sites_of_the_plain_one():
    plain = small('resnet18', num_classes=2)
    frozen = timm.layers.freeze_batch_norm_2d(copy.deepcopy(plain))
    for site in ('norms', 'convs', 'batch_norms', 'stem', 'stem.norm', 'stage1.norm1', 'stage1.sum', 'stage2'):
        expected, found = find_sites(plain, site), find_sites(frozen, site)
        assert [(s.name, s.channels) for s in found] == [(s.name, s.channels) for s in expected], site


@pytest.mark.parametrize('kind', [FrozenBatchNorm2d, timm.layers.FrozenBatchNormAct2d])
def test_channels_are_known_after_a_frozen_norm(kind):
    assert out_channels(nn.Sequential(nn.Conv2d(3, 7, 1), kind(7))) == 7
