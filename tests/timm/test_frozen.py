"""Style layers that rest in a model that trains are told of; those that are meant to are not."""

import warnings

import pytest
import torch
from nets import small
from timm.utils import freeze

import timm_stylenorm
from timm_stylenorm.recipes import LossTerm, build_recipe
from timm_stylenorm.surgery.frozen import let_style_train


def told(model, recipe=None):
    """The warnings of one training step."""

    def forward_loss(images, parts):
        loss = model(images).square().mean()
        timm_stylenorm.style_losses(model, torch.tensor([0, 1]))
        return {part.label('loss'): loss for part in parts}

    images, target = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        if recipe:
            recipe.losses(model, images, target, forward_loss)
        else:
            forward_loss(images, [LossTerm(None)])
    return {str(w.message).partition('. ')[0] for w in caught if 'that trains' in str(w.message)}


def styled(*methods, **options):
    model = small('resnet18', num_classes=4)
    for method in methods:
        timm_stylenorm.add_style(model, method, **options)
    return model.train()


@pytest.mark.parametrize('method', ['snr', 'selfnorm', 'bin', 'ibn_a'])
def test_parameters_that_were_frozen_with_the_base_are_told_of(method):
    model = styled(method)
    assert not told(model)
    freeze(model, ['layer1', 'layer2', 'layer3', 'layer4', 'bn1'], include_bn_running_stats=False)
    assert told(model) == {f'{method}: layers are frozen in a model that trains'}
    let_style_train(model)
    assert not told(model)


def test_layers_in_evaluation_are_told_of_and_norms_are_not():
    model = styled('mixstyle', 'ibn_a')
    model.layer1.eval()
    assert told(model) == {'mixstyle: layers are in evaluation in a model that trains'}
    let_style_train(model)
    assert not told(model)


def test_what_is_meant_to_rest_and_what_evaluates_is_not_told_of():
    model = small('resnet18', num_classes=4).requires_grad_(False)
    model.fc.requires_grad_(True)
    timm_stylenorm.add_style(model, 'snr', frozen=True)
    model.layer1.eval()
    assert not told(model.train())
    assert not told(styled('snr').requires_grad_(False).eval())
    with torch.no_grad():
        assert not told(styled('snr').requires_grad_(False))


@pytest.mark.parametrize(
    'options', [dict(type='advbn', steps=1, lower='frozen'), dict(type='debiased', styliser='pixel')]
)
def test_what_a_recipe_holds_is_not_told_of(options):
    model, recipe = small('resnet18', num_classes=4), build_recipe(options)
    recipe.prepare(model)
    assert not told(model.train(), recipe)
