"""Stages of any end: a sequence whose last module is an activation, pooling or dropout, and networks of torchvision."""

import pytest
import torch
import torchvision.models
from expected import LONELY
from nets import small
from torch import nn

import timm_stylenorm
from timm_stylenorm.methods import ROWS

pytestmark = LONELY

ENDS = {
    'relu': nn.ReLU,
    'inplace': lambda: nn.ReLU(inplace=True),
    'pool': lambda: nn.MaxPool2d(2),
    'average': lambda: nn.AvgPool2d(2),
    'dropout': lambda: nn.Dropout(0.1),
    'dropout2d': lambda: nn.Dropout2d(0.1),
    'identity': nn.Identity,
    'nested': lambda: nn.Sequential(nn.BatchNorm2d(8), nn.Sequential(nn.SiLU(), nn.Dropout2d(0.1))),
}


class Net(nn.Module):
    """Stages `layer1` and `layer2` with an end; with two inputs no probe runs."""

    def __init__(self, end, inputs):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), ENDS[end]())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), ENDS[end]())
        if inputs == 2:
            self.forward = lambda x, y: self.run(x + y)

    def run(self, x):
        return self.layer2(self.layer1(self.conv(x)))

    forward = run


@pytest.mark.parametrize('inputs', [1, 2])
@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('method', ['snr', 'selfnorm', 'mixstyle'])
def test_a_sequence_tells_its_channels_whatever_ends_it(method, end, inputs):
    model = timm_stylenorm.add_style(Net(end, inputs), method, sites=('stage1', 'stage2'))
    found = [layer for _, layer in timm_stylenorm.style_layers(model)]
    assert len(found) == 2
    called = []
    for layer in found:
        layer.register_forward_hook(lambda layer, x, y: called.append(tuple(y.shape[:2])))
    x = torch.randn(4, 3, 64, 64)
    model.train()(*[x] * inputs).sum().backward()
    assert called == [(4, 8), (4, 8)]


# name -> channels of its stages, as its documentation or its `features` have them
TORCHVISION = {
    'mobilenet_v2': [24, 32, 96, 1280],
    'mobilenet_v3_small': [16, 24, 48, 576],
    'efficientnet_b0': [24, 40, 112, 1280],
    'densenet121': [256, 512, 1024, 1024],
    'convnext_tiny': [96, 192, 384, 768],
    'regnet_y_400mf': [48, 104, 208, 440],
    'squeezenet1_1': [128, 256, 512],
    'vgg11_bn': [256, 512, 512, 512],
    'mnasnet0_5': [16, 24, 40, 48, 96, 160],
    'googlenet': [192, 480, 832, 1024],
    'shufflenet_v2_x0_5': [24, 48, 96, 1024],
    'resnet18': [64, 128, 256, 512],
}


@pytest.mark.parametrize('name', TORCHVISION)
@pytest.mark.some(3)
def test_networks_of_torchvision_have_stages(name):
    options = dict(init_weights=False, aux_logits=False) if name == 'googlenet' else {}
    model = getattr(torchvision.models, name)(num_classes=4, **options)
    stages = [row.name for row in timm_stylenorm.list_sites(model) if row.name.removeprefix('stage').isdigit()]
    timm_stylenorm.add_style(model, 'snr', sites=stages)
    found = [len(layer.weight) for _, layer in timm_stylenorm.style_layers(model)]
    assert found == TORCHVISION[name]
    assert model.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize('method', ['snr', 'mixstyle', 'efdmix'])
def test_logits_are_never_a_stage(method):
    """SqueezeNet's classifier is a convolution that keeps the stride of the last stage."""
    model = timm_stylenorm.add_style(torchvision.models.squeezenet1_1(num_classes=4), method)
    assert not any(name.startswith('classifier') and '.style' in name for name, _ in model.named_modules())


class Encoder(torchvision.models.ResNet):
    """An encoder that keeps all stages and runs as many as its depth, as those of segmentation_models_pytorch."""

    def __init__(self, depth):
        super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
        self.depth = depth
        del self.fc, self.avgpool

    def forward(self, x):
        levels = [
            [self.conv1, self.bn1, self.relu],
            [self.maxpool, self.layer1],
            [self.layer2],
            [self.layer3],
            [self.layer4],
        ]
        found = [x]
        for level in levels[: self.depth]:
            for module in level:
                x = module(x)
            found.append(x)
        return found


@pytest.mark.parametrize('depth', [2, 3, 4, 5])
@pytest.mark.parametrize('method', ['snr', 'ibn_a', 'ibn_b', 'isw', 'selfnorm', 'mixstyle', 'irw'])
@pytest.mark.some(7)
def test_stages_past_the_depth_of_an_encoder_are_none(method, depth):
    model = timm_stylenorm.add_style(Encoder(depth), method).train()
    called, layers = set(), dict(timm_stylenorm.style_layers(model))
    for label, layer in layers.items():
        layer.register_forward_hook(lambda *_, label=label: called.add(label))
    model(torch.randn(4, 3, 64, 64))
    assert called == {*layers} != set()


def test_a_stage_past_the_depth_of_an_encoder_is_refused():
    model = Encoder(3)
    with pytest.raises(ValueError, match=r"site 'stage3': 'layer3\.0' \(BasicBlock\) does not run"):
        timm_stylenorm.add_style(model, 'snr', sites=('stage2', 'stage3'))
    assert not [*timm_stylenorm.style_layers(model)]
    layers = timm_stylenorm.style_layers(timm_stylenorm.add_style(model, 'snr', sites='blocks'))
    assert [label for label, _ in layers] == ['snr.layer1.0', 'snr.layer2.0']
    with pytest.raises(ValueError, match=r"site 'stage1': 'layer1\.0' \(BasicBlock\) does not run"):
        timm_stylenorm.add_style(Encoder(1), 'snr')


@pytest.mark.slow
@pytest.mark.parametrize('depth', [2, 3, 5])
def test_every_site_that_is_listed_takes_a_layer(depth):
    model = Encoder(depth)
    rows = {row.name: row.modules for row in timm_stylenorm.list_sites(model)}
    stages = [name for name in rows if name.removeprefix('stage').isdigit()]
    assert stages == [f'stage{i}' for i in range(1, depth)]
    assert {name.partition('.')[0] for name in rows if name.startswith('stage')} == {*stages}
    assert len(rows['blocks']) == len(rows['blocks.sum']) == depth - 1
    for name in [name for name in rows if name.startswith(('stage', 'blocks')) and not name.endswith('norm1')]:
        timm_stylenorm.add_style(Encoder(depth), 'padain', sites=name)


def test_an_extractor_of_no_level_has_no_stage():
    """As within encoders of depth 1 around networks whose first level has stride 4."""
    model = nn.Module()
    model.model = small('convnext_atto', features_only=True, out_indices=())
    with pytest.raises(ValueError, match="Module has no site 'stage1'"):
        timm_stylenorm.add_style(model, 'snr')


@pytest.mark.parametrize('feature_cls', ['list', 'dict', 'hook', 'getter'])
@pytest.mark.parametrize('method', ROWS)
@pytest.mark.some(16)
def test_extractors_of_every_kind_have_the_layers_of_the_model(method, feature_cls):
    whole = small(f'resnet18_{method}')
    model = small(f'resnet18_{method}', features_only=True, feature_cls=feature_cls)
    labels = [label.partition('.')[0] for label, _ in timm_stylenorm.style_layers(model)]
    assert len(labels) == len(list(timm_stylenorm.style_layers(whole)))
    features = model.eval()(torch.randn(2, 3, 64, 64))
    features = features.values() if isinstance(features, dict) else features
    assert [y.shape[1] for y in features] == model.feature_info.channels()
