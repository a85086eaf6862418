"""What methods need beside their layers: it is declared in the table, and its absence is told once, with the cure."""

import warnings

import pytest
import torch
from nets import small

import timm_stylenorm
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.gates import separate_gates
from timm_stylenorm.layers.companions import COMPANIONS
from timm_stylenorm.methods import ROWS as METHODS
from timm_stylenorm.recipes import build_recipe
from timm_stylenorm.surgery.losses import set_classes
from timm_stylenorm.whitening import select_pairs

OPTIONS = {'mixstyle': {'mix': 'crossdomain'}, 'efdmix': {'mix': 'crossdomain'}}
NEEDY = [name for name, method in METHODS.items() if method.companions]
CURES = {
    'classes': lambda model: set_classes(model, 4, dense=False),
    'gates': lambda model: separate_gates(torch.optim.SGD(model.parameters(), 0.1), model),
    'pairs': lambda model: select_pairs(model, [torch.cat([images() * 0.5 + 1, images()])]),
    'domains': lambda model: timm_stylenorm.set_domains(model, ['a', 'b', 'a', 'b']),
}


def images():
    return torch.randn(4, 3, 32, 32)


def styled(name):
    return timm_stylenorm.add_style(small('resnet18', num_classes=4), name, **OPTIONS.get(name, {}))


def told(model, train=True, steps=3):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('default')
        for _ in range(steps):
            with timm_stylenorm.summed_losses(model):  # so that no forward drops losses
                model.train(train)(images())
    return [str(w.message) for w in seen if w.category is StyleNormWarning]


@pytest.mark.parametrize('name', METHODS)
def test_layers_wait_for_nothing_that_their_row_does_not_name(name):
    waiting = {layer.waits_for for _, layer in timm_stylenorm.style_layers(styled(name))} - {''}
    assert waiting == set(METHODS[name].companions) <= set(COMPANIONS)


@pytest.mark.parametrize('name', NEEDY)
def test_training_without_a_companion_is_told_once_by_name_and_with_the_cure(name):
    model = styled(name)
    assert told(model, train=False) == []
    with torch.no_grad():
        assert told(model) == []
    (companion,) = METHODS[name].companions
    assert told(model) == [f'{name}: {COMPANIONS[companion].effect}; {COMPANIONS[companion].cure}']


@pytest.mark.parametrize('name', NEEDY)
def test_nothing_is_told_where_the_companion_is_there(name):
    model, (companion,) = styled(name), METHODS[name].companions
    if companion == 'recipe':
        options = {'styliser': 'pixel'} if name == 'debiased' else {'cut': 'stage1'}
        build_recipe({'type': name, **options}).prepare(model)
    else:
        CURES[companion](model)
    assert told(model) == []


@pytest.mark.parametrize('name', [name for name in METHODS if name not in NEEDY])
def test_other_methods_say_nothing(name):
    assert told(styled(name)) == []


def test_frozen_gates_wait_for_no_optimizer():
    model = styled('bin')
    for _, parameter in timm_stylenorm.style_parameters(model):
        parameter.requires_grad_(False)
    assert told(model) == []


def test_the_names_in_the_cures_exist():
    for function in ('gates.separate_gates', 'whitening.select_pairs', 'set_domains', 'recipes.build_recipe'):
        assert any(f'timm_stylenorm.{function}' in companion.cure for companion in COMPANIONS.values())
        owner = timm_stylenorm
        for part in function.split('.'):
            owner = getattr(owner, part)
