"""Names of places become modules."""

import copy
import functools

import pytest
import timm
import torch
import torchvision
from nets import SMALL, small
from since import older
from torch import nn

import timm_stylenorm
from timm_stylenorm.surgery.sites import find_sites
from timm_stylenorm.surgery.structure import SHORTCUTS

STAGES = ['stage1', 'stage2', 'stage3', 'stage4']


@functools.cache
def net(arch):
    return timm.create_model(arch, **(SMALL['vgg'] if arch.startswith('vgg') else {}))


def names(model, sites):
    return [s.name for s in find_sites(model, sites)]


@pytest.mark.parametrize(('arch', 'count'), [('resnet18', 17), ('resnet50', 49)])
def test_convs_are_those_of_the_authors(arch, count):
    model = net(arch)
    convs = names(model, 'convs')
    assert len(convs) == count
    assert not any('downsample' in c for c in convs)
    assert all(isinstance(model.get_submodule(c), nn.Conv2d) for c in convs)


# word: a network whose shortcuts have a convolution and a norm under this word
SHORTCUT_NETS = {
    'downsample': 'resnet50',
    'project': 'dla34',
    'shortcut': 'ghostnet_050',
    'skip': 'legacy_xception',
}


def test_every_word_for_a_shortcut_has_a_network_that_needs_it():
    assert {*SHORTCUT_NETS} == SHORTCUTS


@pytest.mark.parametrize('word', SHORTCUT_NETS)
def test_convs_of_shortcuts_are_left_out(word):
    with torch.device('meta'):
        model = timm.create_model(SHORTCUT_NETS[word])
    shortcuts = [k for k, m in model.named_modules() if isinstance(m, nn.Conv2d) and word in k.split('.')]
    assert shortcuts
    convs = names(model, 'convs')
    assert convs
    assert not {*shortcuts} & {*convs}


def test_norms_follow_the_convs():
    model = timm.create_model('resnet18')
    assert [n.replace('bn', 'conv') for n in names(model, 'norms')] == names(model, 'convs')


@pytest.mark.parametrize(
    ('arch', 'sites', 'expected'),
    [
        ('resnet50', STAGES, ['layer1.2', 'layer2.3', 'layer3.5', 'layer4.2']),
        ('resnet18', 'stem', ['act1']),
        ('regnety_008', ['stage1'], ['s1.b1']),
        ('efficientnet_b0', ['stage1', 'stage3'], ['blocks.1.1', 'blocks.4.2']),
        ('convnext_tiny', ['stage4'], ['stages.3']),
        ('densenet121', ['stage1'], ['features.denseblock1']),
        ('resnet18', 'layer[12].1.conv2', ['layer1.1.conv2', 'layer2.1.conv2']),
        ('resnet18', ['layer3'], ['layer3.1']),
    ],
)
def test_a_site_is_the_last_block_and_never_a_sequential(arch, sites, expected):
    model = net(arch)
    assert names(model, sites) == expected
    assert not any(isinstance(s.module, nn.Sequential) for s in find_sites(model, sites))


@pytest.mark.parametrize('arch', ['resnet18', 'efficientnet_b0', 'regnety_008', 'convnext_tiny', 'vgg16_bn', 'dla34'])
def test_channels_are_those_that_arrive(arch):
    model = small(arch).eval()
    sites = find_sites(model, STAGES)
    seen = {}
    for site in sites:
        site.module.register_forward_hook(lambda m, a, y, name=site.name: seen.__setitem__(name, y.shape[1]))
    model(torch.randn(1, 3, 64, 64))
    assert seen == {s.name: s.channels for s in sites}


def test_stages_of_a_torchvision_model():
    sites = find_sites(torchvision.models.resnet50(), STAGES)
    assert [(s.name, s.channels) for s in sites] == [
        ('layer1.2', 256), ('layer2.3', 512), ('layer3.5', 1024), ('layer4.2', 2048),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('arch', 'site', 'expected'),
    [
        ('resnet50', 'stem.conv', ['conv1']),
        ('resnet50d', 'stem.conv', ['conv1.6']),
        ('densenet121', 'stem.conv', ['features.conv0']),
        ('efficientnet_b0', 'stem.conv', ['conv_stem']),
        ('vit_tiny_patch16_224', 'stem.conv', ['patch_embed.proj']),
        ('resnet50', 'stem.norm', ['bn1']),
        ('regnety_008', 'stem.norm', ['stem.bn']),
        ('resnet50', 'stem.pool', ['maxpool']),
        ('resnet18', 'stage2.norm1', ['layer2.0.bn1', 'layer2.1.bn1']),
        ('efficientnet_b0', 'stage3.norm1', [f'blocks.{i}.{j}.bn1' for i in (3, 4) for j in range(3)]),
        ('resnet50', 'stage1.sum', ['layer1.2.act3']),
        ('resnet18', 'stage1.sum', ['layer1.1.act2']),
        ('seresnet18', 'stage2.blocks', ['layer2.0', 'layer2.1']),
        ('convnext_tiny', 'stage1.blocks', [f'stages.0.blocks.{i}' for i in range(3)]),
        ('densenet121', 'stage4', ['features.denseblock4']),
    ],
)
def test_parts_of_stem_and_stages(arch, site, expected):
    assert names(net(arch), site) == expected


def test_no_pooling_is_no_place_but_no_error_beside_others():
    assert names(timm.create_model('regnety_008'), ['stem.pool', 'stage1']) == ['s1.b1']


def test_batch_norms_are_all_of_them():
    model = timm.create_model('resnet50')
    assert names(model, 'batch_norms') == [k for k, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize('model', [torchvision.models.resnet18, torchvision.models.resnet50])
def test_a_shared_activation_is_found_with_the_number_of_its_calls(model):
    (site,) = find_sites(model(), 'stage1.sum')
    assert (site.where, site.calls) == ('before', 3 if 'layer1.2' in site.name else 2)


@pytest.mark.parametrize(
    ('arch', 'layout'),
    [
        ('resnet18', (1, 0)),
        ('convnext_tiny', (1, 0)),
        ('swin_tiny_patch4_window7_224', (-1, 0)),
        ('vit_tiny_patch16_224', (-1, 1)),
        ('vit_small_patch14_reg4_dinov2', (-1, 5)),
    ],
)
def test_where_the_channels_are(arch, layout):
    (site,) = find_sites(net(arch), 'stage1')
    assert (site.channel_dim, site.prefix_tokens) == layout


def test_a_block_that_stands_in_two_stages_is_one_place():
    model = torchvision.models.resnet18()
    model.layer2[1] = model.layer1[1]
    assert len(names(model, 'blocks')) == 8
    assert names(model, 'stem.conv') == ['conv1']


def test_a_place_named_twice_counts_once():
    assert names(timm.create_model('resnet18'), ['stage1', 'layer1']) == ['layer1.1']


@pytest.mark.parametrize(
    ('arch', 'site', 'message'),
    [
        ('resnet18', 'stge1', "ResNet has no site 'stge1'; did you mean 'stage1'"),
        ('resnet18', 'stage7', "ResNet has no site 'stage7'.*Available: convs, .*stylenorm sites"),
        ('hrnet_w18', 'stage2', r'stage2. \(SequentialList\) returns several maps'),
        ('hrnet_w18', 'stage2.0', r'stage2\.0. \(HighResolutionModule\) returns several maps'),
        ('vit_tiny_patch16_224', 'convs', 'has no convolution directly followed by a norm layer'),
        ('mixer_s32_224', 'stage1', 'seems to pass tokens'),
        ('mixer_s32_224', 'blocks.3', 'seems to pass tokens'),
        ('vgg16_bn', 'blocks', 'do not consist of blocks'),
        ('vgg16_bn', 'stage1.norm1', 'does not consist of blocks'),
        ('efficientnet_b0', 'stage1.sum', 'no activation after a residual sum'),
        ('convnext_tiny', 'batch_norms', 'has no batch norm'),
        ('resnetv2_50', 'stem.norm', 'has no norm before its stages'),
        ('resnet18', 'fc', 'seems to pass tokens'),
        ('resnet18', [], 'no site was named'),
    ],
)
@pytest.mark.some(4)
def test_impossible_places_are_named(arch, site, message):
    with pytest.raises(ValueError, match=message):
        find_sites(net(arch), site)


def test_unknown_channels_are_refused_before_any_change():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(ValueError, match="the number of channels at '1' cannot be told"):
        timm_stylenorm.add_style(model, 'snr', sites='1')
    assert not hasattr(model[1], 'style')


VGG = pytest.param('vgg11_bn', marks=pytest.mark.slow)


@pytest.mark.parametrize('cls', ['list', 'dict', 'hook', 'getter'])
@pytest.mark.parametrize('arch', ['resnet18', 'convnext_atto', VGG, 'swin_tiny_patch4_window7_224'])
@pytest.mark.some(3)
def test_a_feature_extractor_has_the_styles_up_to_its_last_level(arch, cls):
    if arch == 'vgg11_bn' and cls == 'getter' and older('timm', '1.0.31'):
        pytest.skip('timm before 1.0.31: VGG has no forward_intermediates')
    info = small(arch).feature_info
    last = next(i for i, entry in enumerate(info) if entry['reduction'] == 8)
    size = 64 if arch.startswith('swin') else 128
    for indices in ((last - 1, last), range(len(info))):
        torch.manual_seed(0)
        options = dict(features_only=True, feature_cls=cls, out_indices=tuple(indices))
        model = small(arch, **options).eval()
        plain = copy.deepcopy(model)
        timm_stylenorm.add_style(model, {'type': 'selfnorm', 'sites': 'stage2'})
        timm_stylenorm.add_style(model, 'mixstyle')
        timm_stylenorm.add_style(model, 'snr')
        stages = ['stage1', 'stage2', 'stage3'] if len(indices) > 2 else ['stage1', 'stage2']
        labels = [label for label, _ in timm_stylenorm.style_layers(model) if label.startswith('snr')]
        assert labels == [f'snr.{stage}' for stage in stages]
        images = torch.randn(2, 3, size, size)
        returned = [list(y.values() if isinstance(y, dict) else y) for y in (model(images), plain(images))]
        differ = [not torch.equal(a, b) for a, b in zip(*returned, strict=True)]
        assert differ[list(indices).index(last)], 'what is returned is styled'
    with pytest.raises(ValueError, match="'stage4'"):
        timm_stylenorm.add_style(small(arch, **options | {'out_indices': (1,)}), 'snr', sites='stage4')
