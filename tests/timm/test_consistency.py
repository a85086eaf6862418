"""The recipe of CrossNorm's consistency: its passes, what acts in them, and what the losses are of."""

import subprocess
import sys
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from expected import LONELY
from nets import small
from timm.loss import JsdCrossEntropy
from torch import nn

import timm_stylenorm
from timm_stylenorm.functional import consistency_loss
from timm_stylenorm.recipes import ConsistencyRecipe, build_recipe
from timm_stylenorm.recipes.apply import part_losses
from timm_stylenorm.tasks import StyleNormTask

pytestmark = LONELY
NAME = 'crossnorm_consistency'
CRITERION = nn.CrossEntropyLoss()


@pytest.fixture
def steps():
    """Makes training steps: of each its losses, the logits of its passes and which layers acted in them."""

    def make(recipe, model, images, target, criterion=CRITERION):
        passes = []

        def forward_loss(images, parts):
            acted = []
            hooks = [
                layer.register_forward_hook(lambda m, a, y, label=label: acted.append(label) if y is not a[0] else None)
                for label, layer in timm_stylenorm.style_layers(model)
            ]
            logits = model(images)
            for hook in hooks:
                hook.remove()
            passes.append((logits, acted))
            return part_losses(model, logits, parts, criterion)

        return recipe.losses(model, images, target, forward_loss), passes

    return make


def crossnorm_net(p, **options):
    torch.manual_seed(0)
    return timm_stylenorm.add_style(small('resnet18', num_classes=4), 'crossnorm', p=p, **options).train()


def batch(n=6):
    return torch.randn(n, 3, 64, 64), torch.arange(n) % 4


def test_a_step_is_a_clean_pass_and_two_in_which_exactly_so_many_layers_act(steps):
    model, (images, target) = crossnorm_net(1.0, active=2), batch()
    losses, passes = steps(build_recipe({'type': NAME, 'weight': 10}), model, images, target)
    assert [len(acted) for _, acted in passes] == [0, 2, 2]
    assert losses.keys() == {'loss_cls', 'crossnorm.loss'}
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(passes[0][0], target))
    torch.testing.assert_close(losses['crossnorm.loss'], 10 * consistency_loss(*(logits for logits, _ in passes)))
    gradients = torch.autograd.grad(losses['crossnorm.loss'], [logits for logits, _ in passes])
    assert all(g.abs().sum() > 0 for g in gradients), 'the clean pass learns from it, too'
    assert all(layer.enabled and layer.p == 1.0 for _, layer in timm_stylenorm.style_layers(model))


@pytest.mark.parametrize('p', [0.0, 0.25, 0.75])
@pytest.mark.some(1)
def test_the_others_are_steps_of_plain_cross_entropy(p, steps):
    model, (images, target) = crossnorm_net(p), batch(2)
    counts = Counter()
    torch.manual_seed(1)
    with torch.no_grad():
        for _ in range(60):
            losses, passes = steps(ConsistencyRecipe(), model, images[..., :32, :32], target)
            counts[len(passes)] += 1
            assert passes[0][1] == []
            assert len(losses) == (2 if len(passes) == 3 else 1)
    assert counts.keys() <= {1, 3}
    assert counts[3] / 60 == pytest.approx(p, abs=0.15)


def test_augmixs_views_have_the_consistency_of_their_own_criterion(steps):
    model, (images, target) = crossnorm_net(1.0, sites='input', crop='both'), batch()
    losses, passes = steps(
        build_recipe({'type': NAME, 'views': 3}), model, images, target, JsdCrossEntropy(3, 12, smoothing=0)
    )
    assert [len(logits) for logits, _ in passes] == [6, 2, 2]
    clean, one, two = passes[0][0].chunk(3)
    expected = F.cross_entropy(clean, target[:2]) + 12 * consistency_loss(clean, one, two)
    torch.testing.assert_close(losses['loss_cls'], expected)
    expected = 10 * consistency_loss(clean, passes[1][0], passes[2][0])
    torch.testing.assert_close(losses['crossnorm.loss'], expected)


def test_timms_task_trains_with_it():
    torch.manual_seed(0)
    images, target = batch()
    task = StyleNormTask(crossnorm_net(1.0), CRITERION, recipe=NAME)
    result = task(images, target)
    result['loss'].backward()
    torch.testing.assert_close(result['loss'], result['loss_cls'] + result['crossnorm.loss'])
    assert result['output'].shape == (6, 4)


def test_losses_of_other_styles_are_those_of_every_pass():
    model, (images, target) = crossnorm_net(1.0), batch()
    timm_stylenorm.add_style(model, 'snr', num_classes=4)
    result = StyleNormTask(model, CRITERION, recipe=NAME)(images, target)
    found = {key.replace('.style.snr.stage1', '') for key in result if key.endswith('style.snr.stage1')}
    assert found == {'style.snr.stage1', 'cn1', 'cn2'}
    result['loss'].backward()


def test_a_model_without_crossnorm_gets_it():
    model = small('resnet18', num_classes=4)
    build_recipe(NAME).prepare(model)
    assert {label.partition('.')[0] for label, _ in timm_stylenorm.style_layers(model)} == {'crossnorm'}


def test_evaluation_is_one_pass(steps):
    model, (images, target) = crossnorm_net(1.0), batch()
    losses, passes = steps(ConsistencyRecipe(), model.eval(), images, target)
    assert list(losses) == ['loss_cls']
    assert len(passes) == 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [(dict(weight=-1), 'got -1'), (dict(weight=float('nan')), 'got nan'), (dict(views=0), 'got 0')],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_recipe({'type': NAME, **options})


def test_what_cannot_be_compared_is_refused(steps):
    model, (images, target) = crossnorm_net(1.0), batch(4)
    with pytest.raises(ValueError, match='4 images are no batch of 3 views'):
        steps(ConsistencyRecipe(views=3), model, images, target)
    with pytest.raises(ValueError, match='for classifiers'):
        ConsistencyRecipe().prepare(nn.ModuleList([model]), model)
    model.set_grad_checkpointing()
    with pytest.raises(ValueError, match='activation checkpointing'):
        ConsistencyRecipe().prepare(model)


TWO_PROCESSES = """
import sys, torch
from torch import distributed as dist
import timm_stylenorm
from timm_stylenorm.recipes import ConsistencyRecipe
from timm_stylenorm.recipes.apply import part_losses

dist.init_process_group('gloo', init_method='file://' + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
timm_stylenorm.add_style(net, 'crossnorm', sites='0', p=0.5)
model = torch.nn.parallel.DistributedDataParallel(net).train()
torch.manual_seed(1 + dist.get_rank())
passes, criterion = [], torch.nn.CrossEntropyLoss()

def forward_loss(images, parts):
    passes[-1] += 1
    return part_losses(net, net(images), parts, criterion)

for _ in range(20):
    passes.append(0)
    losses = ConsistencyRecipe().losses(net, torch.randn(2, 3, 8, 8), torch.arange(2), forward_loss)
    sum(losses.values()).backward()
print(passes)
"""


@pytest.mark.slow
def test_all_processes_take_the_same_kind_of_step(tmp_path):
    """With seeds of their own: a pass more on one of them would leave the SyncBatchNorm of the others waiting."""
    command = [sys.executable, '-W', 'ignore', '-c', TWO_PROCESSES, str(tmp_path / 'store')]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    first, second = (rank.communicate(timeout=120)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert first == second
    assert {*first.strip('[]\n').split(', ')} == {'1', '3'}
