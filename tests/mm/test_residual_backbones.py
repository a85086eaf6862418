"""The parts of residual sums in the ResNets of OpenMMLab: what arrives at them, and that training goes on."""

import importlib

import pytest
import torch
from expected import LONELY

pytest.importorskip('mmseg')
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from torch import nn

import timm_stylenorm
from timm_stylenorm.layers import CrossNorm

pytestmark = LONELY
PARTS = ('residual', 'identity', 'pre', 'sum')


def slow(*backbone):
    return pytest.param(backbone, marks=pytest.mark.slow)


BACKBONES = [
    ('mmseg.models', 'ResNet', dict(depth=18)),
    ('mmseg.models', 'ResNet', dict(depth=50, base_channels=8, style='caffe')),
    ('mmseg.models', 'ResNetV1c', dict(depth=50, stem_channels=8, base_channels=8, contract_dilation=True)),
    slow('mmseg.models', 'ResNeXt', dict(depth=50, groups=4, base_width=4)),
    ('mmdet.models', 'ResNet', dict(depth=18)),
    slow('mmdet.models', 'ResNet', dict(depth=50, base_channels=8)),
    slow('mmpretrain.models', 'ResNet', dict(depth=18)),
    slow('mmpretrain.models', 'ResNet', dict(depth=50)),
]


def build(package, kind, options, **more):
    torch.manual_seed(0)
    model = getattr(importlib.import_module(package), kind)(**options, **more)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    model.train()  # mmseg's returns nothing
    return model


@pytest.fixture(params=BACKBONES, ids=lambda v: f'{v[0].partition(".")[0]}-{v[1]}-{v[2]["depth"]}')
def backbone(request):
    pytest.importorskip(request.param[0].partition('.')[0])
    return request.param


@pytest.mark.some(2)
def test_what_arrives_is_what_the_blocks_add(backbone, monkeypatch):
    model, seen, norms = build(*backbone), {}, {}
    model.eval()
    monkeypatch.setattr(CrossNorm, 'restyle', lambda layer, x: seen.__setitem__(layer.attachment.site, x.clone()) or x)
    timm_stylenorm.add_style(model, 'crossnorm', sites=[f'blocks.{part}' for part in PARTS])
    last = 'bn3' if backbone[2]['depth'] == 50 else 'bn2'
    blocks = sorted({site.rpartition('.')[0] for site in (label.partition('.')[2] for label in labels(model))})
    for block in blocks:
        norm = model.get_submodule(f'{block}.{last}')
        norm.register_forward_hook(lambda m, a, y, block=block: norms.__setitem__(block, y.clone()))
        model.get_submodule(block).register_forward_pre_hook(
            lambda m, a, block=block: norms.__setitem__(f'{block} takes', a[0].clone())
        )
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert len(blocks) == (16 if last == 'bn3' else 8)
    for block in blocks:
        assert torch.equal(seen[f'{block}.residual'], norms[block])
        assert torch.equal(seen[f'{block}.pre'], norms[f'{block} takes'])
        torch.testing.assert_close(seen[f'{block}.sum'], seen[f'{block}.residual'] + seen[f'{block}.identity'])


def labels(model):
    return [label for label, _ in timm_stylenorm.style_layers(model)]


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.some(4)
def test_training_and_converters_keep_the_layers(backbone, part):
    model = build(*backbone)
    keys = list(model.state_dict())
    timm_stylenorm.add_style(model, 'selfnorm', sites=f'blocks.{part}')
    images = torch.randn(2, 3, 64, 64)
    sum(y.square().mean() for y in model(images)).backward()
    gates = [p for _, p in timm_stylenorm.style_parameters(model)]
    assert gates
    assert all(p.grad is not None for p in gates)
    model.eval()
    expected = model(images)[-1]
    converted = revert_sync_batchnorm(convert_sync_batchnorm(model))
    converted.eval()
    torch.testing.assert_close(converted(images)[-1], expected, rtol=1e-4, atol=1e-4)
    timm_stylenorm.remove_style(converted)
    assert list(converted.state_dict()) == keys


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.some(2)
def test_checkpointed_blocks_compute_the_same(part):
    results = []
    for with_cp in (False, True):
        model = build('mmseg.models', 'ResNet', dict(depth=50, base_channels=8), with_cp=with_cp)
        timm_stylenorm.add_style(model, 'selfnorm', sites=f'blocks.{part}').double()
        torch.manual_seed(1)
        sum(y.square().mean() for y in model(torch.randn(2, 3, 64, 64, dtype=torch.double).requires_grad_())).backward()
        results.append([p.grad for p in model.parameters()])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-6, atol=1e-9)
