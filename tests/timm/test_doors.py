"""Weights come in by every door of timm, plain or styled."""

import functools
import re

import pytest
import timm
import torch
from doors import (
    ARCH,
    DOORS,
    FAMILIES,
    assert_based_on,
    assert_same,
    checkpoint_path,
    hub,
    initial_checkpoint,
    local_dir,
    overlay,
)
from since import ARGUMENTS

import timm_stylenorm
from timm_stylenorm.methods import ROWS as METHODS


def _cells(whole):
    for i, door in enumerate(DOORS):
        for method in METHODS:
            by_default = i < whole or method == 'ibn_a' or (door is checkpoint_path and method in ('snr', 'bin', 'isw'))
            yield pytest.param(
                door, method, id=f'{door.__name__}-{method}', marks=() if by_default else pytest.mark.slow
            )


@pytest.mark.parametrize(('door', 'method'), [*_cells(whole=2)])
@pytest.mark.some(11)
def test_styled_weights_come_in_whole(published, door, method):
    model, folder = published(ARCH, method)
    assert_same(door(f'{ARCH}_{method}', folder).state_dict(), model.state_dict())


@pytest.mark.parametrize(('door', 'method'), [*_cells(whole=1)])
@pytest.mark.some(7)
def test_plain_weights_come_in_below_the_style(published, door, method):
    base, folder = published(ARCH, None)
    assert_based_on(door(f'{ARCH}_{method}', folder), base, method)


def _family_cells():
    for arch, (_, methods) in FAMILIES.items():
        for method in sorted(methods):
            for door in (overlay, local_dir, checkpoint_path, hub, initial_checkpoint):
                by_default = method == 'snr' and door in (overlay, local_dir)
                marks = [] if by_default else [pytest.mark.slow]
                marks += [ARGUMENTS] if FAMILIES[arch][0] and door in (local_dir, hub) else []
                yield pytest.param(arch, method, door, id=f'{arch}-{method}-{door.__name__}', marks=marks)


@pytest.mark.parametrize(('arch', 'method', 'door'), [*_family_cells()])
@pytest.mark.some(2)
def test_other_families_have_the_same_doors(published, arch, method, door):
    options = FAMILIES[arch][0]
    given = {} if door in (local_dir, hub) else options  # there, the config has them
    model, folder = published(arch, method, **options)
    assert_same(door(f'{arch}_{method}', folder, **given).state_dict(), model.state_dict())
    base, folder = published(arch, None, **options)
    assert_based_on(door(f'{arch}_{method}', folder, **given), base, method)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.some(4)
def test_another_head_is_new_as_in_the_base(published, method):
    model, folder = published(ARCH, method)
    torch.manual_seed(2)
    ours = overlay(f'{ARCH}_{method}', folder, num_classes=7).state_dict()
    torch.manual_seed(2)
    base = overlay(ARCH, published(ARCH, None)[1], num_classes=7).state_dict()
    assert len(ours['fc.weight']) == 7
    heads = {'fc.weight', 'fc.bias'}
    assert all(torch.equal(ours[key], base[key]) for key in heads)
    assert_same(*({k: v for k, v in state.items() if k not in heads} for state in (ours, model.state_dict())))


def test_a_pretrained_path_of_timms_script_drops_the_head_alone(published):
    model, folder = published(ARCH, 'snr')
    entries = dict(file=str(folder / 'last.pth.tar'), num_classes=-1)
    net = timm.create_model(f'{ARCH}_snr', pretrained=True, num_classes=5, pretrained_cfg_overlay=entries)
    different = [key for key, value in model.state_dict().items() if not torch.equal(net.state_dict()[key], value)]
    assert different == ['fc.weight', 'fc.bias']


@pytest.mark.parametrize('method', ['snr', 'ibn_a', 'debiased'])
def test_other_input_channels_are_adapted_as_in_the_base(published, method):
    model, folder = published(ARCH, method)
    ours = overlay(f'{ARCH}_{method}', folder, in_chans=1).state_dict()
    torch.save({k: v for k, v in model.state_dict().items() if k == 'conv1.0.weight'}, folder / 'stem.pth')
    summed = model.state_dict()['conv1.0.weight'].sum(1, keepdim=True)
    assert torch.allclose(ours.pop('conv1.0.weight'), summed)
    assert_same(ours, {k: v for k, v in model.state_dict().items() if k != 'conv1.0.weight'})


@pytest.mark.parametrize('arch', [ARCH, 'test_efficientnet', 'convnext_atto'])
@pytest.mark.parametrize('cls', [None, 'getter'])
def test_feature_extractors_take_the_style_under_their_own_names(published, arch, cls):
    model, folder = published(arch, 'snr')
    net = overlay(f'{arch}_snr', folder, features_only=True, feature_cls=cls)
    wanted, found = (dict(timm_stylenorm.style_layers(m)) for m in (model, net))
    assert len(found) == len(wanted) == 3
    for layer, other in zip(found.values(), wanted.values(), strict=True):
        assert_same(layer.state_dict(), other.state_dict())


def test_feature_extractors_that_end_early_take_what_they_have(published):
    model, folder = published(ARCH, 'selfnorm')
    net = overlay(f'{ARCH}_selfnorm', folder, features_only=True, out_indices=(1, 2))
    state, whole = net.state_dict(), model.state_dict()
    assert 0 < len(state) < len(whole)
    assert all(torch.equal(value, whole[key]) for key, value in state.items())


def test_names_that_the_family_renames_are_renamed(published, tmp_path):
    base, _ = published('convnext_atto', None)
    rules = (
        (r'^stem\.', 'downsample_layers.0.'),
        (r'\.blocks\.', '.'),
        (r'^stages\.(\d)\.downsample', r'downsample_layers.\1'),
    )
    rules += ('conv_dw', 'dwconv'), (r'mlp\.fc', 'pwconv'), (r'^head\.fc', 'head'), (r'^head\.norm', 'norm')
    foreign = {
        functools.reduce(lambda k, rule: re.sub(*rule, k), rules, key): v for key, v in base.state_dict().items()
    }
    assert len(foreign.keys() - base.state_dict().keys()) > 50
    torch.save({'model': foreign}, tmp_path / 'foreign.pth')
    entries = dict(file=str(tmp_path / 'foreign.pth'), num_classes=5)
    net = timm.create_model('convnext_atto_snr', pretrained=True, num_classes=5, pretrained_cfg_overlay=entries)
    assert_based_on(net, base, 'snr')
