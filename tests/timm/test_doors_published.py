"""A published model comes back as it was; what does not fit is refused by name; plain weights load strictly."""

import copy
import dataclasses
import json
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from doors import (
    ARCH,
    assert_based_on,
    assert_same,
    checkpoint_path,
    drawn,
    local_dir,
    overlay,
)
from since import ARGUMENTS
from timm.models import _registry, load_checkpoint, save_for_hf

import timm_stylenorm
from timm_stylenorm import launch
from timm_stylenorm.methods import ROWS as METHODS


def told(caplog):
    """What we log beside the line on what styles the model."""
    ours = [record.getMessage() for record in caplog.records if record.name.startswith('timm_stylenorm')]
    return [text for text in ours if not text.startswith('style: ')]


def test_weights_of_the_registry_come_in_and_are_named(published, monkeypatch, caplog):
    base, folder = published(ARCH, None)
    cfg = dataclasses.replace(
        timm.models.get_pretrained_cfg(ARCH), file=str(folder / 'model.safetensors'), num_classes=5
    )
    for name in (ARCH, f'{ARCH}.{cfg.tag}'):
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, dataclasses.replace(cfg, hf_hub_id=None, url=None))
    for name in (f'{ARCH}_ibn_a', f'{ARCH}_ibn_a.{cfg.tag}'):
        caplog.clear()
        with caplog.at_level('INFO', 'timm_stylenorm'):
            net = timm.create_model(name, pretrained=True)
        assert told(caplog) == [f'weights of {ARCH}.{cfg.tag}, trained without ibn_a']
        assert_based_on(net, base, 'ibn_a')


@pytest.mark.parametrize(('method', 'source', 'history'), [
    ('snr', 'snr', 'trained with snr'), ('snr', None, 'trained without snr'),
    ('padain', None, 'with or without padain, which has no tensors of its own'),
])  # fmt: skip
def test_one_line_says_whose_weights_they_are(published, caplog, method, source, history):
    folder = published(ARCH, source)[1]
    with caplog.at_level('INFO', 'timm_stylenorm'):
        overlay(f'{ARCH}_{method}', folder)
    assert told(caplog) == [f'weights of {folder / "model.safetensors"}, {history}']


def test_the_config_of_a_published_model_tells_of_a_style_without_tensors(published, caplog):
    with caplog.at_level('INFO', 'timm_stylenorm'):
        local_dir(f'{ARCH}_padain', published(ARCH, 'padain')[1])
    (message,) = told(caplog)
    assert message.endswith(', trained with padain')


@pytest.mark.parametrize('num_classes', [pytest.param(5, marks=pytest.mark.slow), 7])
@pytest.mark.parametrize(
    'source', [m for m in METHODS if m not in ('padain', 'mixstyle', 'efdmix', 'dsu', 'crossnorm')]
)
@pytest.mark.some(3)
def test_weights_of_another_style_are_refused_by_name(published, source, num_classes):
    """Also where timm itself would not be strict, because the head is another one."""
    folder = published(ARCH, source)[1]
    for method in ('padain', 'snr', 'debiased', *(('ibn_a', 'domainnorm', 'isw') if num_classes == 5 else ())):
        same = {('irw', 'isw'), ('dual_bn', 'debiased')}  # the same network but for what training needs
        if method != source and (source, method) not in same:
            with pytest.raises(
                ValueError, match=rf'safetensors .*{ARCH}_{method}: \d+ (missing|unknown to the model): '
            ):
                overlay(f'{ARCH}_{method}', folder, num_classes=num_classes)
            with pytest.raises(RuntimeError, match=r'Missing key|Unexpected key'):
                checkpoint_path(f'{ARCH}_{method}', folder)


def test_weights_of_another_architecture_or_with_other_arguments_are_refused(published):
    folder = published(ARCH, 'snr')[1]
    with pytest.raises(ValueError, match=r'of another shape: .*snr.fc1.bias \(2,\) instead of \(16,\)'):
        overlay(f'{ARCH}_snr', folder, style=dict(reduction=2))
    with pytest.raises(ValueError, match=r'unknown to the model: .*style\.snr'):
        overlay('test_efficientnet_snr', folder, num_classes=7)
    with pytest.raises(ValueError, match=r'\d+ unknown to the model: layer3\.\d\.style\.snr'):
        overlay(f'{ARCH}_snr', folder, style=dict(sites=('stage1', 'stage2')))


@ARGUMENTS
def test_a_published_model_comes_back_with_its_arguments(tmp_path):
    style = dict(reduction=8, sites=('stage1', 'stage2'), num_classes=4)
    model = drawn(timm.create_model(f'{ARCH}_snr', num_classes=4, in_chans=1, style=style))
    save_for_hf(model, tmp_path / 'a')
    back = timm.create_model(f'local-dir:{tmp_path / "a"}', pretrained=True)
    assert_same(back.state_dict(), model.state_dict())
    assert [label for label, _ in timm_stylenorm.style_layers(back)] == ['snr.stage1', 'snr.stage2']
    save_for_hf(back, tmp_path / 'b')
    configs = [json.loads((tmp_path / name / 'config.json').read_text()) for name in 'ab']
    assert configs[0] == configs[1]
    assert configs[0]['architecture'] == f'{ARCH}_snr'
    assert 'state_dict' not in configs[0]['pretrained_cfg']


@ARGUMENTS
def test_arguments_of_the_caller_win_over_the_saved_ones(tmp_path):
    save_for_hf(timm.create_model(f'{ARCH}_mixstyle', style=dict(p=0.25)), tmp_path)
    for style, p in ((None, 0.25), (dict(p=0.75), 0.75)):
        net = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, style=style)
        assert {layer.p for _, layer in timm_stylenorm.style_layers(net)} == {p}


@ARGUMENTS
def test_a_model_of_the_launcher_is_published_with_its_style(tmp_path):
    with launch.styled_timm(dict(type='snr', reduction=8)):
        model = drawn(timm.create_model(ARCH, num_classes=5))
    save_for_hf(model, tmp_path)
    assert_same(timm.create_model(f'local-dir:{tmp_path}', pretrained=True).state_dict(), model.state_dict())


def test_heads_for_training_are_left_out_and_named(published, tmp_path, caplog):
    trained = drawn(timm.create_model(f'{ARCH}_snr', num_classes=5, style=dict(num_classes=5)))
    torch.save(trained.state_dict(), tmp_path / 'trained.pth')
    entries = dict(file=str(tmp_path / 'trained.pth'), num_classes=5)
    for style in ({}, dict(num_classes=7)):
        caplog.clear()
        with caplog.at_level('INFO', 'timm_stylenorm'):
            net = timm.create_model(
                f'{ARCH}_snr', pretrained=True, num_classes=5, style=style, pretrained_cfg_overlay=entries
            )
        assert 'only training needs them' in caplog.text
        state = net.state_dict()
        assert all(torch.equal(state[k], v) for k, v in trained.state_dict().items() if '.snr.head.' not in k)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.some(4)
def test_plain_weights_load_strictly_and_leave_the_style_as_it_is(published, method, caplog):
    base, _ = published(ARCH, None)
    net = drawn(timm.create_model(f'{ARCH}_{method}', num_classes=5))
    before = {k: v.clone() for k, v in net.state_dict().items() if re.search(r'\.style\.|\.gate$|\.mask$', k)}
    with caplog.at_level('INFO', 'timm_stylenorm'):
        net.load_state_dict(base.state_dict())
    assert (f'weights trained without {method}, whose' in caplog.text) == bool(before)
    state = net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    expected = timm_stylenorm.add_style(copy.deepcopy(base), method).state_dict()
    assert all(torch.equal(state[k], v) for k, v in expected.items() if k not in before)


def test_weights_with_a_part_of_the_style_are_refused(published):
    state = published(ARCH, 'snr')[0].state_dict()
    del state['layer1.0.style.snr.weight']
    net = timm.create_model(f'{ARCH}_snr', num_classes=5)
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "layer1.0.style.snr.weight"'):
        net.load_state_dict(state)
    with pytest.raises(ValueError, match=r'1 missing: layer1.0.style.snr.weight'):
        state_dict_of(net, state)


def state_dict_of(net, state):
    entries = dict(state_dict=state, num_classes=5)
    return timm.create_model(f'{ARCH}_snr', pretrained=True, num_classes=7, pretrained_cfg_overlay=entries)


def test_copies_and_pickles_take_plain_weights_too(published):
    base, folder = published(ARCH, None)
    net = timm.create_model(f'{ARCH}_snr', num_classes=5)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        load_checkpoint(twin, str(Path(folder) / 'model.safetensors'))
        assert_based_on(twin, base, 'snr')
