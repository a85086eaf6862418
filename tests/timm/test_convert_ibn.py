"""IBN-Net's checkpoints: places, parts and orders of the instance norms are read from the tensors."""

from inspect import signature

import pytest
import timm
import torch
from golden_data import filled
from torch import nn

import timm_stylenorm
from timm_stylenorm.convert import convert, export, verify
from timm_stylenorm.layers import IBN


@pytest.mark.parametrize('name', ['resnext50_32x4d_ibn_a', 'seresnet18_ibn_a', 'resnet18_ibn_b', 'resnet50_ibn_b'])
@pytest.mark.some(2)
def test_ibn_families_are_told_apart_and_give_equal_outputs(name):
    model = filled(timm.create_model(name, num_classes=5))
    theirs = {}
    for key, value in model.state_dict().items():
        if '.se.fc' in key:
            if key.endswith('bias'):
                value.zero_()  # the authors' have none
                continue
            key, value = key.replace('.fc1.', '.fc.0.').replace('.fc2.', '.fc.2.'), value[:, :, 0, 0]
        theirs[key.replace('act2.style.ibn_b', 'IN').replace('act3.style.ibn_b', 'IN')] = value.clone()
    conversion = convert(theirs)
    assert (conversion.report.source, conversion.model) == ('ibn-net', name)
    assert {k.rpartition('.')[2] for k in conversion.report.added} == ({'bias'} if 'se' in name else set())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(verify(conversion).eval()(x), model(x))
    assert list(export(conversion.state_dict, 'ibn').state_dict) == list(theirs)


def test_ibn_b_goes_from_timm_to_mmseg_and_to_the_authors_state():
    mmseg = pytest.importorskip('mmseg.models.backbones')
    ours = filled(timm.create_model('resnet50_ibn_b', num_classes=0))
    theirs = export(ours.state_dict(), 'ibn-net').state_dict
    assert [key for key in theirs if '.IN.w' in key] == ['layer1.2.IN.weight', 'layer2.3.IN.weight']
    conversion = convert(theirs, target='mmseg')
    model = timm_stylenorm.add_style(mmseg.ResNet(50), conversion.style)
    verify(conversion, model).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[-1], ours.forward_features(x), rtol=1e-4, atol=1e-4)
    assert list(export(model.state_dict(), 'ibn-net').state_dict) == list(theirs)


def test_a_bias_that_the_authors_lack_is_only_dropped_if_it_is_zero():
    state = timm.create_model('seresnet18_ibn_a', num_classes=5).state_dict()
    state = {key: value.clone() for key, value in state.items()}
    state['layer1.0.se.fc1.bias'].fill_(1)
    state['layer1.0.se.fc2.bias'].zero_()
    back = export(state, 'ibn-net')
    assert 'layer1.0.se.fc.0.bias' in back.state_dict
    assert 'zeros' in back.report.dropped['layer1.0.se.fc2.bias']
    assert torch.equal(convert(back.state_dict).state_dict['layer1.0.se.fc1.bias'], state['layer1.0.se.fc1.bias'])


def test_statistics_of_old_instance_norms_are_dropped():
    state = timm.create_model('resnet18_ibn_a', num_classes=5).state_dict()
    old = {**state, 'layer1.0.bn1.IN.running_mean': torch.zeros(32), 'layer1.0.bn1.IN.running_var': torch.ones(32)}
    conversion = convert(old)
    assert list(conversion.state_dict) == list(state)
    assert 'keeps no statistics' in conversion.report.dropped['layer1.0.bn1.IN.running_mean']


def test_other_ratios_are_read_from_the_lengths():
    model = timm.create_model('resnet18_ibn_a', num_classes=5, style=dict(ratio=0.3))
    conversion = convert(model.state_dict())
    assert conversion.style == {'type': 'ibn_a', 'ratio': 0.3}
    assert any('19 of 64' in note for note in conversion.report.notes)
    verify(conversion)


class BatchNormFirst(nn.Module):
    """IBN as in IBN-Net's densenets: batch norm on the first channels, instance norm on the rest; then timm's ReLU."""

    def __init__(self, channels, ratio=0.4):
        super().__init__()
        self.half = int(channels * (1 - ratio))
        self.BN = nn.BatchNorm2d(self.half)
        self.IN = nn.InstanceNorm2d(channels - self.half, affine=True)

    def forward(self, x):
        first, rest = x[:, : self.half], x[:, self.half :]
        return torch.cat([self.BN(first), self.IN(rest)], 1).relu()


@pytest.fixture(scope='module')
def ibn_densenet():
    model = timm.create_model('densenet121', num_classes=5)
    for stage in (1, 2, 3):
        block = model.features.get_submodule(f'denseblock{stage}')
        for layer in list(block.values())[::3]:
            layer.norm1 = BatchNormFirst(layer.norm1.num_features)
    return filled(model)


def test_densenets_of_ibn_net_name_places_and_order(ibn_densenet):
    state = ibn_densenet.state_dict()
    conversion = convert(state)
    style = conversion.style
    assert conversion.model == 'densenet121_ibn_a'
    assert list(conversion.state_dict) == list(state) == list(export(conversion.state_dict, 'ibn').state_dict)
    assert style.keys() == {'type', 'sites', 'ratio', 'instance_first'}
    old = {key.replace('.norm1.', '.norm.1.'): value for key, value in state.items()}
    assert any('.norm.1.IN.' in key for key in old)
    assert list(convert(old).state_dict) == list(state)
    assert (style['type'], style['ratio'], style['instance_first']) == ('ibn_a', 0.4, False)
    assert [path for path, module in ibn_densenet.named_modules() if isinstance(module, BatchNormFirst)] == style[
        'sites'
    ]


@pytest.mark.skipif('instance_first' not in signature(IBN).parameters, reason='IBN has one order of its parts')
def test_densenets_of_ibn_net_give_equal_outputs(ibn_densenet):
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = ibn_densenet(x)
        torch.testing.assert_close(verify(convert(ibn_densenet.state_dict())).eval()(x), expected, rtol=1e-4, atol=1e-4)
