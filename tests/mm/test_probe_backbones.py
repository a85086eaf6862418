"""Backbones of mmseg times methods: refused at build, or right in a training forward."""

import collections
import copy
import logging

import pytest
import torch

pytest.importorskip('mmseg')
from expected import LONELY, UNTAKEN
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from sweep import SWEPT, outcome

import timm_stylenorm
from timm_stylenorm.surgery.probe import probe
from timm_stylenorm.surgery.sites import find_sites
from timm_stylenorm.surgery.structure import _TOKENS

pytestmark = [LONELY, UNTAKEN]

log = logging.getLogger('sweep')
COUNTS = collections.Counter()
VIT = dict(img_size=(192, 160), embed_dims=32, num_layers=3, num_heads=2, out_indices=(1, 2))
HR = {f'stage{i}': dict(num_modules=1, num_branches=i, block='BASIC', num_blocks=(1,) * i) for i in (2, 3, 4)}
for i in (2, 3, 4):
    HR[f'stage{i}']['num_channels'] = (8, 16, 32, 64)[:i]
HR['stage1'] = dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(1,), num_channels=(8,))
BACKBONES = {
    'BEiT': VIT | dict(qv_bias=True, init_values=0.1),
    'BiSeNetV2': dict(),
    'CGNet': dict(num_channels=(8, 16, 32), num_blocks=(2, 2)),
    'DDRNet': dict(channels=8, ppm_channels=16),
    'ERFNet': dict(),
    'FastSCNN': dict(),
    'HRNet': dict(extra=HR),
    'MAE': VIT,
    'MSCAN': dict(embed_dims=[8, 16, 32, 64], depths=[2, 1, 1, 1], norm_cfg=dict(type='BN')),
    'MixVisionTransformer': dict(embed_dims=8, num_layers=(2, 1, 1, 1), num_heads=(1, 2, 4, 8)),
    'MobileNetV2': dict(),
    'MobileNetV3': dict(),
    'PIDNet': dict(channels=8, ppm_channels=16),
    'ResNeSt': dict(depth=50, base_channels=8, stem_channels=8),
    'ResNeXt': dict(depth=50, groups=4, base_width=4),
    'ResNet': dict(depth=18),
    'ResNetV1c': dict(depth=18),
    'STDCNet': dict(
        stdc_type='STDCNet1', in_channels=3, channels=(8, 16, 32, 64, 128), bottleneck_type='cat',
        norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'),
    ),
    'SVT': dict(
        embed_dims=[8, 16, 32, 64], num_heads=[1, 2, 4, 8], mlp_ratios=[2, 2, 2, 2], depths=[1, 1, 2, 1],
        windiow_sizes=[7, 7, 7, 7], sr_ratios=[8, 4, 2, 1], norm_after_stage=True,
    ),
    'PCPVT': dict(
        embed_dims=[8, 16, 32, 64], num_heads=[1, 2, 4, 8], mlp_ratios=[2, 2, 2, 2], depths=[1, 1, 2, 1],
    ),
    'SwinTransformer': dict(embed_dims=8, depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2), window_size=4),
    'TIMMBackbone': dict(model_name='resnet18', pretrained=False, features_only=True),
    'UNet': dict(base_channels=8, num_stages=5),
    'VisionTransformer': VIT,
}  # fmt: skip
SIZE = (192, 160)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


def build(name):
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy({'type': name, **BACKBONES[name]}))


@pytest.fixture(scope='module', autouse=True)
def _table():
    yield
    log.info('cells %s', dict(COUNTS))


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_a_method_is_refused_or_right(name):
    plain, images = build(name), torch.randn(3, 3, *SIZE)
    plain.eval()
    with torch.no_grad():
        reference = plain(images)
    row, wrong = [], []
    for method in SWEPT:
        torch.manual_seed(0)
        try:
            result, unproven, text = outcome(plain, images, reference, method)
        except Exception as error:
            result, unproven, text = 'wrong', False, f'{type(error).__name__}: {error}'
            wrong.append(f'{method}: {text}')
        COUNTS[result] += 1
        row.append(f'{method}={result}' + ('*' if unproven else ''))
        log.debug('%s %s: %s', name, method, text)
    log.info('%s: %s', name, ' '.join(row))
    assert not wrong, '\n'.join(wrong)


@pytest.mark.parametrize('name', ['MSCAN', 'MixVisionTransformer', 'SwinTransformer', 'ResNetV1c', 'VisionTransformer'])
def test_a_probe_runs_in_a_backbone_and_restores_its_mode(name):
    model = build(name)
    model.train()
    modes = [m.training for m in model.modules()]
    site = {'VisionTransformer': 'layers.0', 'MSCAN': 'block1.0'}.get(name, 'stage1')
    assert probe(model, find_sites(model, site, tokens=True))
    assert [m.training for m in model.modules()] == modes


# backbone: how many tokens its blocks pass beside those of the image
TOKENS = {
    'BEiT': 1, 'MAE': 1, 'MixVisionTransformer': 0, 'PCPVT': 0, 'SVT': 0, 'SwinTransformer': 0, 'VisionTransformer': 1,
}  # fmt: skip


def test_every_transformer_of_the_table_is_tested():
    assert {*TOKENS} == _TOKENS


@pytest.mark.parametrize('name', TOKENS)
def test_blocks_of_transformers_pass_tokens(name):
    model, seen = build(name), {}
    model.eval()  # which returns nothing in some backbones
    sites = find_sites(model, 'blocks')
    for site in sites:
        site.module.register_forward_hook(lambda m, args, y, name=site.name: seen.__setitem__(name, tuple(y.shape)))
    with torch.no_grad():
        model(torch.zeros(1, 3, *SIZE))
    assert {*seen} == {site.name for site in sites}
    assert {(site.channel_dim, site.prefix_tokens) for site in sites} == {(-1, TOKENS[name])}
    area = SIZE[0] * SIZE[1]
    assert {length - TOKENS[name] for _, length, _ in seen.values()} <= {area // s**2 for s in (4, 8, 16, 32)}
    assert all(site.channels in (None, seen[site.name][2]) for site in sites)


def test_a_block_without_the_class_token_has_none_in_front():
    torch.manual_seed(0)
    options = BACKBONES['VisionTransformer'] | dict(with_cls_token=False)
    model = MODELS.build(dict(type='VisionTransformer', **options))
    assert {site.prefix_tokens for site in find_sites(model, 'blocks')} == {0}


@pytest.mark.parametrize(
    ('name', 'site', 'expected'),
    [('HRNet', 'stage2.0', r'\(HRModule\) returns several maps'), ('SwinTransformer', 'stages.0', 'stages.0.blocks.1')],
)
def test_a_module_of_several_maps_is_refused_or_its_last_block_found(name, site, expected):
    model = build(name)
    if name == 'HRNet':
        with pytest.raises(ValueError, match=expected):
            find_sites(model, site)
    else:
        assert [found.name for found in find_sites(model, site)] == [expected]


def test_blocks_of_mscan_pass_maps_and_their_channels_are_seen():
    model = timm_stylenorm.add_style(build('MSCAN'), 'selfnorm', sites=('block1.0', 'block2.0'))
    assert [len(layer.g_bn.weight) for _, layer in timm_stylenorm.style_layers(model)] == [8, 16]


@pytest.mark.parametrize(
    ('name', 'stages'),
    [
        ('CGNet', ['norm_prelu_1.1', 'norm_prelu_2.1']),
        ('DDRNet', ['stem.5', 'context_branch_layers.0.1']),
        ('ERFNet', ['encoder.6', 'encoder.15']),
        ('FastSCNN', ['learning_to_downsample', 'global_feature_extractor']),
        ('MSCAN', ['block1.1', 'block2.0']),
        ('MobileNetV2', ['layer2.1', 'layer3.2']),
        ('MobileNetV3', ['layer1', 'layer12']),  # dilated: the rest has the stride of stage 2
        ('PIDNet', ['stem.5', 'i_branch_layers.0.2']),
        ('STDCNet', ['stages.1', 'stages.2.1']),
        ('TIMMBackbone', ['timm_model.layer1.1', 'timm_model.layer2.1']),
        ('UNet', ['encoder.2.1', 'encoder.3.1']),
    ],
)
@pytest.mark.some(3)
def test_stages_without_a_common_name_are_where_maps_become_smaller(name, stages):
    model = build(name)
    assert [site.name for site in find_sites(model, ['stage1', 'stage2'])] == stages


@pytest.mark.parametrize('method', ['mixstyle', 'dsu', 'ibn_b', 'snr'])
@pytest.mark.parametrize('name', ['BiSeNetV2', 'HRNet'])
def test_a_method_is_not_cut_down_to_the_few_places_that_a_model_has(name, method):
    with pytest.raises(ValueError, match='stage'):
        timm_stylenorm.add_style(build(name), method)
