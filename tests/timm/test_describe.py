"""The line that a log has on what styles a model, by the host that builds it, once."""

import logging

import pytest
import timm
import torch
from nets import THIN
from torch import nn

import timm_stylenorm
from timm_stylenorm.layers import BatchInstanceNorm2d
from timm_stylenorm.methods import ROWS
from timm_stylenorm.surgery.describe import describe_style
from timm_stylenorm.surgery.losses import set_classes


def plain():
    return timm.create_model('resnet18', num_classes=7, **THIN)


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_a_plain_model_has_no_line():
    assert describe_style(plain()) == ''


@pytest.mark.parametrize(
    ('style', 'places', 'losses'),
    [
        (['mixstyle', 'ibn_a'], 'ibn_a replaces 6 norms; mixstyle after stage1, stage2', 'none'),
        ('padain', 'padain after 17 modules', 'none'),
        ('ibn_b', 'ibn_b after stage1.sum, stage2.sum, replaces 1 norm', 'none'),
        (dict(type='snr', num_classes=0), 'snr after stage1, stage2, stage3', 'none'),
        (dict(type='snr', sites='stage1'), 'snr after stage1', 'snr (none until it knows the classes)'),
        (
            dict(type='snr', sites='stage1', num_classes=7),
            'snr after stage1',
            'snr (dual causality, 0.0139 a layer until its new head tells classes apart, cross entropy)',
        ),
        (dict(type='irw', sites='stage1.sum'), 'irw after stage1.sum', 'irw (whitening)'),
        (dict(type='irw', sites='stage1.sum', loss_weight=0), 'irw after stage1.sum', 'none'),
        (dict(type='isw', sites='stage1.sum'), 'isw after stage1.sum', 'isw (whitening once pairs are chosen)'),
    ],
)
def test_the_line_says_where_how_many_parameters_and_which_losses(style, places, losses):
    model = timm_stylenorm.add_style(plain(), style)
    added = size(model) - size(plain())
    assert describe_style(model) == f'style: {places}; {added:+,} parameters; losses: {losses}'


def test_layers_with_which_a_model_was_written_are_told_too():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchInstanceNorm2d(4))
    assert describe_style(model) == 'style: batchinstancenorm2d as 1; +12 parameters; losses: none'


@pytest.mark.parametrize('method', ROWS)
def test_parameters_of_every_method_are_counted(method):
    model = timm_stylenorm.add_style(plain(), method)
    assert f'; {size(model) - size(plain()):+,} parameters;' in describe_style(model)


def test_the_first_loss_of_snr_is_the_one_that_the_line_names():
    model = timm_stylenorm.add_style(plain(), 'snr').train()
    set_classes(model, 7, dense=False)
    model(torch.randn(4, 3, 32, 32))
    losses = timm_stylenorm.style_losses(model, torch.arange(4))
    assert [losses[f'snr.stage{i}'].item() for i in (1, 2, 3)] == pytest.approx([0.0139] * 3, abs=2e-4)


@pytest.mark.parametrize('method', ['mixstyle', 'ibn_a'])
def test_a_model_of_timms_names_is_told_once(method, caplog):
    with caplog.at_level(logging.INFO, 'timm_stylenorm'):
        timm.create_model(f'resnet18_{method}', **THIN)
    assert [text.split()[1] for text in caplog.messages if text.startswith('style: ')] == [method]
