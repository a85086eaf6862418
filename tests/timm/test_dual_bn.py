"""Dual batch norms: the authors' MixBatchNorm2d, routes, states, conversions both ways."""

import copy

import pytest
import timm
import torch
from golden_data import assert_matches, load
from nets import small
from torch import nn

import timm_stylenorm
from timm_stylenorm.dual_bn import convert_dual_bn, routed, split_dual_bn
from timm_stylenorm.layers import DualBatchNorm2d

ROUTES = {'clean': 'clean', 'adv': 'adversarial', 'mix': [False] * 3 + [True] * 3}
STATE = [f'{branch}{k}' for branch in ('', 'aux_bn.') for k in ('weight', 'bias', 'running_mean', 'running_var')]


def moved(norm):
    """A batch norm with weights and statistics unlike another's."""
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    if norm.running_mean is not None:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
    return norm


def golden_layer():
    data = load('mixbn_a')
    layer = DualBatchNorm2d(5, float(data['eps']), float(data['momentum']))
    layer.load_state_dict({k: data[k] for k in STATE} | {'num_batches_tracked': torch.tensor(0)}, strict=False)
    return data, layer


@pytest.mark.parametrize('status', ROUTES)
def test_matches_the_authors_mixed_batch_norm(status):
    data, layer = golden_layer()
    with routed(layer, ROUTES[status]):
        assert_matches(layer.eval()(data['x']), data[f'{status}_y_eval'])
        x = data['x'].requires_grad_()
        y = layer.train()(x)
    assert_matches(y, data[f'{status}_y_train'])
    (y * data['grad_out']).sum().backward()
    assert_matches(x.grad, data[f'{status}_grad_x'])
    for name, parameter in layer.named_parameters():
        name = name.removeprefix('bn.')
        expected = data[f'{status}_grad_{name}']
        assert_matches(torch.zeros_like(expected) if parameter.grad is None else parameter.grad, expected)
    for name, buffer in layer.named_buffers():
        name = name.removeprefix('bn.')
        if f'{status}_after_{name}' in data:
            torch.testing.assert_close(buffer, data[f'{status}_after_{name}'], rtol=1e-5, atol=1e-6)


def test_a_mask_in_any_order_gives_what_the_halves_give():
    layer = moved(DualBatchNorm2d(4)).train()
    moved(layer.aux_bn)
    x = torch.randn(6, 4, 3, 5)
    twin = copy.deepcopy(layer)
    order = torch.tensor([4, 1, 5, 0, 2, 3])
    with routed(layer, [False, False, True, True, True, True]):
        expected = layer(x)
    with routed(twin, torch.tensor([False, False, True, True, True, True])[order]):
        actual = twin(x[order])
    torch.testing.assert_close(actual, expected[order])
    torch.testing.assert_close(twin.state_dict(), layer.state_dict())


def test_a_mask_of_one_kind_is_that_route():
    layer = moved(DualBatchNorm2d(4)).eval()
    x = torch.randn(3, 4, 3, 5)
    with routed(layer, [False] * 3):
        assert torch.equal(layer(x), layer.eval()(x))
    with routed(layer, [True] * 3):
        assert torch.equal(layer(x), layer.aux_bn(x))


def test_routes_end_with_their_block():
    layer = DualBatchNorm2d(4)
    with pytest.raises(KeyError), routed(layer, 'adversarial'), routed(layer, [True]):
        raise KeyError
    assert layer.route == 'clean'


def test_wrong_routes_are_named():
    layer = DualBatchNorm2d(4)
    with pytest.raises(ValueError, match=r"unknown route 'advesarial'.*'adversarial'"), routed(layer, 'advesarial'):
        pass
    with pytest.raises(ValueError, match=r'a boolean mask \(N,\), got torch.int64'), routed(layer, [0, 1]):
        pass
    with routed(layer, [True, False]), pytest.raises(ValueError, match='route is for 2 images, and the batch has 3'):
        layer(torch.randn(3, 4, 2, 2))


@pytest.mark.parametrize('arch', ['resnet18', 'efficientnet_b0', 'densenet121', 'mobilenetv3_small_050'])
def test_a_converted_model_computes_what_the_plain_one_does_and_splits_into_it(arch):
    model = small(arch, num_classes=4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            moved(module)
    plain, x = copy.deepcopy(model), torch.randn(2, 3, 64, 64)
    assert convert_dual_bn(model) is model
    with routed(model, 'adversarial'):
        assert torch.equal(model(x), plain(x)), 'the auxiliary batch norms start as copies'
    with routed(model.train(), 'adversarial'):
        model(x)
    assert torch.equal(model.eval()(x), plain(x)), 'evaluation takes the main ones'
    assert split_dual_bn(model) is model
    assert [(k, type(m)) for k, m in model.named_modules()] == [(k, type(m)) for k, m in plain.named_modules()]
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_a_plain_state_fills_both_and_a_dual_one_keeps_them_apart():
    plain = small('resnet18', num_classes=4)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            moved(module)
    model = small('resnet18_debiased', num_classes=4)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model.bn1.aux_bn.weight, plain.bn1.weight)
    moved(model.bn1.aux_bn)
    twin = small('resnet18_debiased', num_classes=4)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert not torch.equal(twin.bn1.aux_bn.weight, twin.bn1.weight)


def test_synchronised_batch_norm_before_and_after_is_synchronised_in_both_branches(monkeypatch):
    ran, forward = [], nn.SyncBatchNorm.forward
    monkeypatch.setattr(nn.SyncBatchNorm, 'forward', lambda norm, x: ran.append(norm) or forward(norm, x))
    before = convert_dual_bn(nn.SyncBatchNorm.convert_sync_batchnorm(small('resnet18')))
    after = nn.SyncBatchNorm.convert_sync_batchnorm(convert_dual_bn(small('resnet18')))
    for model in (before, after):
        assert isinstance(model.bn1.aux_bn, nn.SyncBatchNorm)
        with routed(model.eval(), [False, True]):
            model(torch.randn(2, 3, 64, 64))
        assert {model.bn1.bn, model.bn1.aux_bn} <= set(ran)
        assert type(split_dual_bn(model).bn1) is not nn.BatchNorm2d
        assert isinstance(model.bn1, nn.SyncBatchNorm)
    revert_sync_batchnorm = pytest.importorskip('mmengine.model').revert_sync_batchnorm
    assert convert_dual_bn(revert_sync_batchnorm(model)).train()(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_what_is_no_plain_batch_norm_is_refused_and_stays():
    model = small('resnet18_ibn_a')
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match="'ibn_a' and 'dual_bn' both replace the norm layer"):
        convert_dual_bn(model)
    assert list(model.state_dict()) == keys
    with pytest.raises(ValueError, match='has no batch norm'):
        convert_dual_bn(timm.create_model('convnext_atto'))


def test_switched_off_means_the_main_batch_norm():
    model = convert_dual_bn(small('resnet18')).eval()
    moved(model.bn1.aux_bn)
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    with routed(model, 'adversarial'), timm_stylenorm.style_disabled(model):
        assert torch.equal(model(x), expected)
