"""Class activation maps: against the formula, for every layout of maps, and what is refused."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from timm_stylenorm import add_style
from timm_stylenorm.evaluation.cams import CAMS, activation_maps, default_layer


class Quadrants(nn.Module):
    """Class k is the mean of channel k of the image."""

    def __init__(self, dense=False):
        super().__init__()
        self.layer1 = nn.Conv2d(3, 3, 1, bias=False)
        self.dense = dense
        nn.init.dirac_(self.layer1.weight)

    def forward(self, images):
        maps = self.layer1(images)
        return maps if self.dense else maps.mean((2, 3))


@pytest.fixture
def images():
    """Channel k is bright in a corner of its own."""
    images = torch.zeros(3, 3, 32, 32)
    images[:, 0, :16, :16] = images[:, 1, 16:, :16] = images[:, 2, 16:, 16:] = 1
    return images


@pytest.mark.parametrize('cam', CAMS)
@pytest.mark.parametrize('dense', [False, True])
def test_a_map_is_high_where_the_class_is(images, cam, dense):
    maps = activation_maps(Quadrants(dense), images, [0, 1, 2], cam=cam)
    assert maps.shape == (3, 32, 32)
    for found, (rows, columns) in zip(maps, ((0, 0), (1, 0), (1, 1)), strict=True):
        corner = found[16 * rows : 16 * rows + 16, 16 * columns : 16 * columns + 16]
        assert corner.mean() > 0.99
        assert found.mean() == pytest.approx(corner.mean() / 4, abs=1e-3)


def test_grad_cam_is_the_formula_of_the_paper():
    net = timm.create_model('test_resnet', num_classes=5).eval()
    images = torch.rand(2, 3, 64, 64)
    maps = net.forward_features(images).detach().requires_grad_()
    logits = net.forward_head(maps)
    (gradient,) = torch.autograd.grad(logits[0, 3] + logits[1, 1], maps)
    wanted = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu().detach()
    found = activation_maps(net, images, [3, 1], layer='stage4')
    for one, two in zip(found, wanted, strict=True):
        if two.max() > 0:
            large = nn.functional.interpolate(
                (two - two.min())[None, None] / (two.max() - two.min()), (64, 64), mode='bilinear'
            )
            np.testing.assert_allclose(one, large[0, 0], atol=2e-2)
    assert found.any()


@pytest.mark.parametrize(
    ('name', 'layer'), [('test_resnet', 'stage4'), ('test_vit', 'stage5'), ('test_efficientnet', 'stage4')]
)
def test_models_have_a_layer_without_its_name(name, layer):
    net = timm.create_model(name, num_classes=3)
    assert default_layer(net) == layer
    assert activation_maps(net, torch.rand(1, 3, *net.pretrained_cfg['input_size'][1:]), [2]).shape[0] == 1


def test_channels_last_and_tokens_become_maps():
    images = torch.rand(1, 3, 64, 64)
    swin = timm.create_model('swin_tiny_patch4_window7_224', num_classes=2, img_size=64, depths=(1, 1, 1, 1))
    assert activation_maps(swin, images, [1], layer='stage2').any()
    vit = timm.create_model('test_vit', img_size=(32, 64), num_classes=2)
    assert activation_maps(vit, images[:, :, :32], [1], layer='blocks.1').shape == (1, 32, 64)


def test_a_model_that_does_not_say_that_it_passes_tokens_is_told_by_its_shapes():
    mixer = timm.create_model('mixer_s32_224', num_classes=2, img_size=64)
    nn.init.normal_(mixer.head.weight)  # which timm makes 0
    assert activation_maps(mixer, torch.rand(1, 3, 64, 64), [1]).any()


def test_the_model_stays_as_it_was():
    net = add_style(timm.create_model('test_resnet', num_classes=2), 'mixstyle').train()
    net.fc.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    learning = [p.requires_grad for p in net.parameters()]
    hooks = [len(module._forward_hooks) for module in net.modules()]
    with torch.no_grad():
        activation_maps(net, torch.rand(2, 3, 32, 32), [0, 1])
    assert [p.requires_grad for p in net.parameters()] == learning
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert all(module.training for module in net.modules())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, state[name])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'layer': 'stage9'}, "did you mean 'stage4'"),
        ({'layer': 'blocks'}, r"layer 'blocks' means \d+ modules"),
        ({'layer': 'input'}, 'no output of a module'),
        ({'classes': [5]}, 'class 5, and the network has 3 outputs, 0 to 2'),
        ({'cam': 'gradcamm'}, "did you mean 'gradcam'"),
    ],
)
def test_mistakes_are_told(options, message):
    net = timm.create_model('test_resnet', num_classes=3)
    with pytest.raises(ValueError, match=message):
        activation_maps(net, torch.rand(1, 3, 32, 32), **{'classes': [0], **options})


def test_a_layer_that_the_class_token_has_left_is_refused():
    vit = timm.create_model('test_vit', img_size=32, num_classes=2)
    with pytest.raises(ValueError, match='logits do not depend on the map'):
        activation_maps(vit, torch.rand(1, 3, 32, 32), [0], layer='stage6')


def test_models_without_stages_need_a_layer():
    with pytest.raises(ValueError, match='Sequential has no stages'):
        activation_maps(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), torch.rand(1, 3, 8, 8), [0])
