"""What arrives at a site decides where the channels are and how many, before the model is changed."""

import copy
import random

import pytest
import timm
import torch
import torchvision
from nets import small
from since import since
from torch import nn

import timm_stylenorm
from timm_stylenorm.surgery.probe import probe
from timm_stylenorm.surgery.sites import find_sites

SHALLOW = {
    'cait_xxs24_224': dict(depth=2),
    'pvt_v2_b0': dict(depths=(1, 2, 1, 1)),
    'swin_tiny_patch4_window7_224': dict(depths=(1, 1, 1, 1)),
    'vit_tiny_patch16_224': dict(depth=2),
}


def create(arch):
    return small(arch, **SHALLOW.get(arch, {}))


def layers(model):
    return [layer for _, layer in timm_stylenorm.style_layers(model)]


def unchecked(model):
    return [layer for layer in layers(model) if layer.attachment.unchecked]


def layouts(model):
    return [(layer.channel_dim, layer.prefix_tokens) for layer in layers(model)]


def state(model):
    """All that a probe might touch."""
    return [
        (
            {k: v for k, v in vars(m).items() if not isinstance(v, dict)},
            {k: dict(v) for k, v in vars(m).items() if isinstance(v, dict)},
        )
        for m in model.modules()
    ]


def identical(a, b):
    return a is b or (type(a) is type(b) and not isinstance(a, torch.Tensor) and a == b)


def assert_same(before, after):
    for (values, dicts), (values2, dicts2) in zip(before, after, strict=True):
        assert values.keys() == values2.keys()
        assert all(identical(values[k], values2[k]) for k in values)
        assert dicts.keys() == dicts2.keys()
        for name, inside in dicts.items():
            assert inside.keys() == dicts2[name].keys()
            assert all(identical(inside[k], dicts2[name][k]) for k in inside)


@pytest.mark.parametrize(
    ('arch', 'style', 'sites', 'expected'),
    [
        ('pvt_v2_b0', 'crossnorm', None, {(-1, 0)}),
        ('efficientformer_l1', 'dsu', 'stage4', {(-1, 0)}),
        ('efficientformer_l1', 'dsu', 'stage3', {(1, 0)}),
        pytest.param(
            'cait_xxs24_224',
            'mixstyle',
            'blocks.1',
            {(-1, 0)},
            marks=since('timm', '1.0.31', 'Cait does not say that it passes tokens'),
        ),
        ('swin_tiny_patch4_window7_224', 'mixstyle', 'layers.0.blocks.0.mlp', {(-1, 0)}),
        ('vit_tiny_patch16_224', 'mixstyle', 'stage1', {(-1, 1)}),
    ],
)
def test_the_layout_is_that_of_what_arrives(arch, style, sites, expected):
    model = create(arch)
    options = {} if sites is None else {'sites': sites, 'channel_dim': -1} if 'mlp' in sites else {'sites': sites}
    timm_stylenorm.add_style(model, style, **options)
    assert set(layouts(model)) == expected


@pytest.mark.parametrize(
    ('arch', 'style', 'sites', 'channels'),
    [
        ('ecaresnet26t', 'ibn_b', 'stage1.sum', 256),
        pytest.param('dpn68', 'selfnorm', 'features.conv5_3', 832, marks=since('timm', '1.0.31', 'DPN passes tuples')),
        ('pvt_v2_b0', 'selfnorm', 'stages.1.blocks.1', 64),
        ('rdnet_tiny', 'selfnorm', 'stage1', 256),  # a Sequential that joins its blocks' maps
    ],
)
def test_channels_are_those_of_what_arrives(arch, style, sites, channels):
    (layer,) = layers(timm_stylenorm.add_style(create(arch), style, sites=sites))
    assert len(next(layer.parameters())) == channels


@pytest.mark.parametrize(
    ('arch', 'style', 'message'),
    [
        ('selecsls42', 'mixstyle', r"at 'features.1' \(SelecSlsBlock\) arrive a list of \(5, 128, 56, 56\)"),
        ('res2net50d', 'ibn_b', r"site 'stage1.sum': 'layer1.2.relu' \(ReLU\) is called 5 times, expected 2"),
        ('mvitv2_tiny', 'padain', r'arrive \(10, 96, 28, 28\) for images \(5, 3, 224, 224\)'),
    ],
)
def test_what_is_no_map_of_the_images_is_refused_and_changes_nothing(arch, style, message):
    model = create(arch)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        timm_stylenorm.add_style(model, style)
    assert_same(before, state(model))


def test_a_list_of_methods_is_refused_as_a_whole():
    model = timm.create_model('res2net50d')
    with pytest.raises(ValueError, match='called 5 times'):
        timm_stylenorm.add_style(model, ['mixstyle', 'ibn_b'])
    assert not any('style' in name for name, _ in model.named_modules())


def test_a_layout_that_the_user_states_is_checked():
    model = small('resnet18')
    with pytest.raises(ValueError, match=r"site 'stage1': .* \(5, 64, 56, 56\) .* \(channel_dim=-1"):
        timm_stylenorm.add_style(model, 'mixstyle', sites='stage1', channel_dim=-1)
    model = timm.create_model('vit_tiny_patch16_224', depth=2)
    with pytest.raises(ValueError, match=r'\(5, 197, 192\)'):
        timm_stylenorm.add_style(model, 'mixstyle', sites='stage1', channel_dim=-1, prefix_tokens=0)
    timm_stylenorm.add_style(model, 'mixstyle', sites='stage1', channel_dim=-1, prefix_tokens=1)
    assert layouts(model) == [(-1, 1)]


class Caching(nn.Module):
    """Fills caches, counts and draws in its forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.cache, self.calls, self.scale = {}, 0, torch.ones(1)
        self.tied = self.conv

    def forward(self, x):
        self.calls += 1
        self.cache[x.device] = x
        self.last = x
        random.random()
        return self.norm(self.tied(x) * self.scale + torch.rand(1))


@pytest.mark.parametrize(
    'build', [Caching, lambda: timm.create_model('levit_128s'), lambda: timm.create_model('coat_mini')]
)
def test_a_probe_leaves_no_trace(build):
    model = build().train()
    next(model.children()).eval()
    called = []
    for module in model.modules():
        module.register_forward_hook(lambda *args: called.append(args))
    before = state(model)
    torch.manual_seed(3)
    random.seed(3)
    generators = torch.get_rng_state(), random.getstate()
    sites = find_sites(model, next(k for k, m in model.named_modules() if isinstance(m, nn.Conv2d)))
    assert probe(model, sites)
    assert_same(before, state(model))
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert not called


@pytest.mark.parametrize(
    'build',
    [
        lambda: small('resnet18').half(),
        lambda: small('resnet18').bfloat16(),
        lambda: small('resnet18').to('meta'),
        lambda: small('resnet18', in_chans=5),
        lambda: small('resnet18', features_only=True),
        lambda: nn.DataParallel(small('resnet18')).module,
        lambda: timm_stylenorm.add_style(small('resnet18'), 'ibn_a'),
        lambda: timm_stylenorm.add_style(small('resnet18'), ['bin', 'snr']),
        torchvision.models.resnet18,
    ],
)
def test_a_probe_runs_in_models_of_all_kinds(build):
    model = build()
    (arrivals,) = probe(model, find_sites(model, 'stage1')).values()
    assert [call.shape[:2] for calls in arrivals.calls for call in calls] == [(5, 64), (7, 64)]


def test_a_probe_runs_without_activation_checkpointing():
    model = small('resnet18')
    model.set_grad_checkpointing()
    timm_stylenorm.add_style(model, 'snr')
    assert model.grad_checkpointing
    assert not unchecked(model)


def test_a_probe_runs_in_a_model_with_compiled_parts():
    model = small('resnet18')
    model.layer1 = torch.compile(model.layer1)
    model.layer2.compile()
    assert probe(model, find_sites(model, 'stage3'))
    assert model.layer2._compiled_call_impl is not None


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Conv2d(3, 8, 1)

    def forward(self, x, y):
        return self.as_arrives(self.layer1(x)) + y

    def as_arrives(self, x):
        return x


def test_where_no_probe_runs_the_first_forward_checks():
    model = timm_stylenorm.add_style(TwoInputs(), 'mixstyle', sites='layer1')
    assert probe(model, []) is None
    with pytest.raises(
        ValueError, match=r"site 'layer1': at 'layer1' arrives \(8, 8, 8\)|arrives \(8, 4, 8\), expected"
    ):
        model(torch.randn(3, 4, 8), 0)
    x = torch.randn(2, 3, 8, 8)
    again = copy.deepcopy(model)
    assert torch.equal(again.eval()(x, 0), again.layer1(x))
    assert unchecked(model)
    assert not unchecked(again)


class Looks(TwoInputs):
    """Its control flow depends on values, and what the site returns is chosen."""

    def __init__(self, make):
        super().__init__()
        self.layer1 = Returns(make)

    def forward(self, x):
        return self.layer1(x) if x.sum().item() < 1e9 else x


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make, self.conv = make, nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return self.make(self.conv(x))


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda x: [x, x], 'arrives a list, expected one tensor'),
        (lambda x: x.mean((2, 3)), r'arrives \(2, 8\), expected a map or tokens'),
        (lambda x: torch.cat([x, x], 1), r'arrives \(2, 16, 6, 6\), expected 8 channels at axis 1'),
        (lambda x: x.flatten(2)[..., 1:], r'arrives \(2, 8, 35\), expected a square map'),
    ],
)
def test_the_first_forward_names_site_expected_and_seen(make, message):
    model = timm_stylenorm.add_style(Looks(make), 'snr', sites='layer1', reduction=2, num_classes=0)
    with pytest.raises(ValueError, match=f"site 'layer1': at 'layer1' {message}"):
        model.train()(torch.randn(2, 3, 6, 6))


def test_taking_styles_off_takes_the_check_off():
    model = timm_stylenorm.add_style(Looks(lambda x: x), 'mixstyle', sites='layer1')
    timm_stylenorm.remove_style(model)
    assert not unchecked(model)
