"""Style layers where mmcv and mmseg build norms and plugins."""

import copy
import pickle

import pytest
import torch
from expected import LONELY
from torch import nn

pytest.importorskip('mmseg')
from mmcv.cnn import build_norm_layer, build_plugin_layer
from mmengine.config import ConfigDict
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_stylenorm  # noqa: F401 (registers)
from mmseg_stylenorm.plugins import PLUGINS
from timm_stylenorm import layers
from timm_stylenorm.layers.owned import own_names
from timm_stylenorm.methods import METHODS

pytestmark = LONELY

NORMS = {
    'BIN': layers.BatchInstanceNorm2d,
    'BIN1d': layers.BatchInstanceNorm1d,
    'BIN2d': layers.BatchInstanceNorm2d,
    'BIN3d': layers.BatchInstanceNorm3d,
    'IBN': layers.IBN,
    'DomainNorm': layers.DomainNorm2d,
}
OVER_A_NETWORK = ['BIN', 'IBN', 'DomainNorm']


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


def segmentor(norm='BN', kind='EncoderDecoder', depth=18, **backbone):
    """ResNet and a head with an image pooling branch, whose norm sees maps of one position."""
    norm_cfg = {'type': norm, 'requires_grad': True}
    net = {'type': 'ResNetV1c', 'depth': depth, 'base_channels': 8, 'stem_channels': 8, 'norm_cfg': norm_cfg}
    channels = 64 if depth == 18 else 256
    head = {'type': 'DepthwiseSeparableASPPHead', 'in_channels': channels, 'in_index': 3, 'channels': 8}
    head |= {'dilations': (1, 2), 'c1_in_channels': channels // 8, 'c1_channels': 4, 'num_classes': 5}
    head |= {'dropout_ratio': 0, 'norm_cfg': norm_cfg}
    test = {'train_cfg': {}, 'test_cfg': {'mode': 'whole'}}
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(type=kind, backbone={**net, **backbone}, decode_head=head, **test))
    model.init_weights()
    return model


def batch(count=2, size=64):
    labels = torch.randint(0, 5, (count, 1, size, size))
    return torch.randn(count, 3, size, size), [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]


def trained(model):
    """The model after some steps, which move weights and statistics away from where they start."""
    optimizer = torch.optim.SGD(model.train().parameters(), 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model.parse_losses(model.loss(*batch()))[0].backward()
        optimizer.step()
    return model


@pytest.mark.parametrize('name', NORMS)
def test_norms_are_built_by_mmcv_under_the_name_of_a_batch_norm(name):
    child, layer = build_norm_layer({'type': name, 'requires_grad': False, 'eps': 1e-3}, 6, postfix=1)
    assert child == 'bn1'
    assert isinstance(layer, NORMS[name])
    assert layer.eps == 1e-3
    assert not any(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize('name', OVER_A_NETWORK)
def test_every_norm_of_backbone_and_head_is_of_the_type_and_trains(name):
    model = segmentor(name)
    plain = segmentor()
    norms = [key for key, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(isinstance(model.get_submodule(key), NORMS[name]) for key in norms)
    model.parse_losses(model.train().loss(*batch()))[0].backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 64, 64), mode='tensor').isfinite().all()


def saved(model, path):
    torch.save({'state_dict': model.state_dict()}, path)
    return str(path)


def test_a_plain_checkpoint_in_a_network_of_bin_is_the_plain_network(tmp_path):
    plain, model = trained(segmentor()).eval(), segmentor('BIN').eval()
    missing = model.state_dict().keys() - own_names(model, plain.state_dict()).keys()
    assert all(key.endswith('.gate') for key in missing)
    load_checkpoint(model, saved(plain, tmp_path / 'plain.pth'))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images, mode='tensor'), plain(images, mode='tensor'), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['IBN', 'DomainNorm'])
def test_a_plain_checkpoint_gives_its_weights_to_other_norms(name, tmp_path):
    plain, model = trained(segmentor()), segmentor(name)
    load_checkpoint(model, saved(plain, tmp_path / 'plain.pth'))
    for key, norm in plain.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            own = model.get_submodule(key)
            parts = [own.IN, own.BN] if name == 'IBN' else [own]
            assert torch.equal(torch.cat([part.weight for part in parts]), norm.weight), key
            assert torch.equal(torch.cat([part.bias for part in parts]), norm.bias), key
        elif isinstance(norm, nn.Conv2d):
            assert torch.equal(model.get_submodule(key).weight, norm.weight), key


@pytest.mark.parametrize('name', OVER_A_NETWORK)
def test_its_own_checkpoint_gives_the_network_back(name, tmp_path):
    model, again = trained(segmentor(name)).eval(), segmentor(name).eval()
    load_checkpoint(again, saved(model, tmp_path / 'own.pth'), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images, mode='tensor'), again(images, mode='tensor'))


@pytest.mark.parametrize('name', OVER_A_NETWORK)
def test_residual_branches_start_at_zero_and_gates_at_one(name):
    model = segmentor(name)
    last = model.backbone.layer1[0].norm2
    weights = [p for key, p in last.named_parameters() if key.endswith('weight')]
    assert weights
    assert all((w == 0).all() for w in weights)
    assert all((p == 1).all() for key, p in model.named_parameters() if key.endswith('gate'))


@pytest.mark.parametrize('name', OVER_A_NETWORK)
def test_frozen_stages_freeze_parameters_and_statistics(name):
    model = segmentor(name, frozen_stages=1)
    before = {key: value.clone() for key, value in model.backbone.layer1.state_dict().items()}
    trained(model)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.layer1.state_dict().items())
    assert not any(p.requires_grad for p in model.backbone.stem.parameters())


@pytest.mark.parametrize('name', ['BIN', 'IBN'])
def test_norm_eval_keeps_the_statistics_of_the_backbone(name):
    model = segmentor(name, norm_eval=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained(model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith('backbone.') and key.endswith('weight') for key in changed)
    assert not any(key.startswith('backbone.') and 'running' in key for key in changed)
    assert any(key.startswith('decode_head.') and 'running' in key for key in changed)


def test_norm_eval_still_reaches_batch_norm():
    model = segmentor(norm_eval=True).train()
    assert not any(m.training for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert any(m.training for m in segmentor().train().backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_conversion_to_synchronised_norms_keeps_the_layers():
    model = convert_sync_batchnorm(segmentor('IBN'))
    assert isinstance(model.backbone.layer1[0].bn1, layers.IBN)
    assert isinstance(model.backbone.layer1[0].bn1.BN, nn.SyncBatchNorm)
    model = convert_sync_batchnorm(segmentor('BIN'))
    assert isinstance(model.backbone.layer1[0].bn1, layers.BatchInstanceNorm2d)
    assert isinstance(model.backbone.layer1[0].bn1.bn, nn.SyncBatchNorm)


@pytest.mark.parametrize('name', OVER_A_NETWORK)
def test_networks_of_these_norms_are_copied_and_pickled(name):
    model = segmentor(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images, mode='tensor')
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(images, mode='tensor'), expected)


def test_every_method_that_follows_any_module_is_a_plugin():
    rows = list(METHODS.values())
    attachable = {row.layer for row in rows if not hasattr(row.layer, 'from_norm')}
    assert {cls.__bases__[0] for cls in PLUGINS.values()} == attachable
    assert {'MixStyle', 'SNR', 'PermutedAdaIN', 'CrossNorm', 'SelfNorm', 'DSU', 'EFDMix'} <= set(PLUGINS)


ALWAYS = ('PermutedAdaIN', 'SNR', 'SelfNorm')  # without parameters, with a loss, with gates


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in PLUGINS]
)
def test_plugins_act_in_bottlenecks(name):
    options = {} if name in ('SNR', 'SelfNorm') else {'p': 1.0}
    plugins = [{'cfg': {'type': name, **options}, 'stages': (True, False, False, True), 'position': 'after_conv2'}]
    model = segmentor(depth=50, plugins=plugins, with_cp=True, kind='StyleNormEncoderDecoder').train()
    found = [m for m in model.modules() if isinstance(m, PLUGINS[name])]
    assert len(found) == 6
    assert type(pickle.loads(pickle.dumps(found[0]))) is PLUGINS[name]
    changed = []
    for layer in found:
        layer.register_forward_hook(lambda m, args, y: changed.append(not torch.equal(args[0], y)))
    model.parse_losses(model.loss(*batch()))[0].backward()
    assert len(changed) == 12  # once more each, in the backward pass of the checkpoints
    assert any(changed)  # a permutation of two images may be the identity
    assert all(p.grad is not None for layer in found for p in layer.parameters())


def test_plugins_are_named_after_their_method_and_know_their_arguments():
    name, layer = build_plugin_layer({'type': 'SNR', 'reduction': 4}, in_channels=8, postfix='_x')
    assert (name, layer.reduction, len(layer.weight)) == ('snr_x', 4, 8)
    with pytest.raises(TypeError, match="did you mean 'reduction'"):
        build_plugin_layer({'type': 'SNR', 'reducton': 4}, in_channels=8)
