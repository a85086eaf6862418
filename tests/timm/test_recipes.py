"""What holds for every recipe in a loop of one's own: which norms become dual, and what the loop is told."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from timm_stylenorm.layers import DualBatchNorm2d
from timm_stylenorm.recipes import DebiasedRecipe, build_recipe

RECIPES = [{'type': 'advbn', 'steps': 1}, {'type': 'debiased', 'styliser': 'pixel'}]


class Segmentor(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.neck = nn.BatchNorm2d(512)
        self.backbone = timm.create_model(backbone, features_only=True)
        self.norm, self.head = nn.BatchNorm2d(512), nn.Conv2d(512, 4, 1)

    def forward(self, x):
        return self.head(self.norm(self.neck(self.backbone(x)[-1]))).mean((2, 3))


@pytest.mark.parametrize(
    ('recipe', 'backbone'),
    [
        (RECIPES[0], 'resnet18'),
        (RECIPES[0], 'resnet18_advbn'),
        (RECIPES[1], 'resnet18'),
        (RECIPES[1], 'resnet18_advbn'),
        (RECIPES[1], 'resnet18_debiased'),
    ],
)
def test_norms_beside_the_encoder_become_dual_at_any_depth(recipe, backbone):
    model = Segmentor(backbone)
    for _ in range(2):  # the second time changes nothing
        build_recipe(recipe).prepare(model, model.backbone)
    assert isinstance(model.neck, DualBatchNorm2d)
    assert isinstance(model.norm, DualBatchNorm2d)
    duals = [m for m in model.modules() if isinstance(m, DualBatchNorm2d)]
    assert len({m.aux_bn for m in duals}) == len(duals)
    plain = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    below = len(plain) - 2 * len(duals)
    assert (below > 0) == (recipe['type'] == 'advbn'), 'debiased leaves no plain batch norm, advbn those below its cut'


def test_norms_after_the_cut_become_dual_without_an_encoder():
    model = Segmentor('resnet18_advbn')
    build_recipe('advbn').prepare(model)
    assert isinstance(model.norm, DualBatchNorm2d)


@pytest.fixture
def net():
    return timm.create_model('resnet10t', num_classes=4, channels=(8, 8, 8, 8)).train()


@pytest.mark.parametrize('recipe', RECIPES, ids=['advbn', 'debiased'])
def test_checkpointing_that_is_switched_on_later_is_refused(recipe, net):
    recipe = build_recipe(recipe)
    recipe.prepare(net)
    net.set_grad_checkpointing()
    with pytest.raises(ValueError, match='activation checkpointing'):
        recipe.losses(net, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), None)


@pytest.mark.parametrize(
    ('name', 'told'), [('loss', r"both passes gave \['loss'\]; name losses by"), ('ce', r"contain 'loss', .* \['ce'\]")]
)
def test_names_of_losses_that_would_get_lost_are_told(name, told, net):
    recipe = build_recipe(RECIPES[0])
    recipe.prepare(net)
    with pytest.raises(ValueError, match=told):
        recipe.losses(
            net,
            torch.rand(2, 3, 64, 64),
            torch.tensor([0, 1]),
            lambda images, parts: {name: F.cross_entropy(net(images), parts[0].target)},
        )


def test_a_model_that_was_not_prepared_is_told(net):
    with pytest.raises(ValueError, match='this ResNet has no AdvBN layer; call `prepare` first'):
        build_recipe('advbn').losses(net, torch.rand(2, 3, 64, 64), torch.tensor([0, 1]), None)


def test_grey_images_need_a_normalisation_of_theirs():
    recipe = DebiasedRecipe('pixel')
    recipe.prepare(nn.Conv2d(1, 2, 1), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    with pytest.raises(ValueError, match='the images have 1 channels, and mean has 3 values'):
        recipe.stylise(torch.rand(2, 1, 8, 8), torch.tensor([1, 0]))
    recipe.prepare(nn.Conv2d(1, 2, 1), mean=(0.5,), std=(0.2,))
    assert recipe.stylise(torch.rand(2, 1, 8, 8), torch.tensor([1, 0])).shape == (2, 1, 8, 8)
