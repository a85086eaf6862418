"""Recipes in the classifier of mmengine's Runner: losses, checkpoints, mixed precision, accumulation, EMA, resume."""

import copy
import logging

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner

import timm_stylenorm.classification  # noqa: F401 (registers)
from timm_stylenorm import recipes, style_layers
from timm_stylenorm.dual_bn import split_dual_bn
from timm_stylenorm.layers import DualBatchNorm2d

ADVBN = dict(type='advbn', cut='stage1', steps=2)
DEBIASED = dict(type='debiased', styliser='pixel')
RECIPES = [ADVBN, dict(type='advbn', steps=2, lower='trainable'), DEBIASED]


def classifier(recipe=None, **kwargs):
    torch.manual_seed(0)
    base = dict(type='StyleNormClassifier', model='test_resnet', num_classes=4, recipe=recipe, zero_init_last=False)
    return MODELS.build({**base, **kwargs})


def batch(n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return dict(inputs=torch.randint(256, (n, 3, 32, 32), generator=generator).byte(), targets=torch.arange(n) % 4)


def losses_of(model, data=None, **kwargs):
    return model(**model.data_preprocessor(data or batch(), True), **kwargs, mode='loss')


def duals(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, DualBatchNorm2d)}


def assert_copies(model):
    """Both batch norms of a pair hold the same numbers, and not those of a new layer."""
    assert duals(model)
    for name, dual in duals(model).items():
        for key, value in dual.aux_bn.state_dict().items():
            assert torch.equal(value, dual.bn.state_dict()[key]), f'{name}.{key}'
        assert not torch.equal(dual.running_var, torch.ones_like(dual.running_var)), name


@pytest.fixture
def trained_plain():
    """A plain network whose batch norms have seen images."""
    torch.manual_seed(2)
    net = timm.create_model('test_resnet', num_classes=4).train()
    with torch.no_grad():
        net(torch.randn(8, 3, 32, 32))
    return net


def test_advbn_losses_of_both_passes_make_the_total():
    model = classifier(ADVBN, style=dict(type='snr', num_classes=4)).train()
    losses = losses_of(model)
    after = {'loss_cls', 'style.snr.stage2', 'style.snr.stage3', 'style.snr.stage3.ce'}
    assert set(losses) == {'style.snr.stage1', *after, *(f'adv.{name}' for name in after)}  # the cut runs once
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    torch.testing.assert_close(log['loss'], total)
    assert losses['adv.loss_cls'] > losses['loss_cls']


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda r: f'{r["type"]}-{r.get("lower")}')
def test_every_trained_parameter_gets_a_gradient_and_the_frozen_ones_none(recipe):
    model = classifier(recipe).train()
    model.parse_losses(losses_of(model))[0].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    frozen = {name for name, _ in model.named_parameters() if name.startswith(('net.conv1', 'net.bn1', 'net.layer1'))}
    assert without == (frozen if recipe == ADVBN else set())


@pytest.mark.parametrize('recipe', [ADVBN, DEBIASED], ids=['advbn', 'debiased'])
@pytest.mark.parametrize('mode', ['tensor', 'loss'])
def test_in_evaluation_a_model_with_a_recipe_is_the_plain_one(recipe, mode):
    model = classifier(recipe).train()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    model.train_step(batch(), wrapper)
    plain = classifier().eval()
    plain.net.load_state_dict(split_dual_bn(copy.deepcopy(model.net)).state_dict())
    data = plain.data_preprocessor(batch())
    ours, theirs = model.eval()(**data, mode=mode), plain(**data, mode=mode)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_debiased_losses_of_both_kinds_of_images():
    model = classifier(dict(DEBIASED, gamma=0.5)).train()
    seen = []
    model.net.register_forward_hook(lambda module, args, output: seen.append(output))
    losses = losses_of(model, batch(6))
    assert set(losses) == {'loss_cls', 'stylised.loss_cls'}
    (logits,) = seen
    assert len(logits) == 12
    torch.testing.assert_close(losses['loss_cls'], F.cross_entropy(logits[:6], batch(6)['targets']) / 2)


def test_the_parts_of_a_batch_are_weighted_and_those_of_one_name_summed():
    model = classifier().train()
    images, first, second = torch.randn(6, 3, 32, 32), torch.tensor([0, 1]), torch.rand(4, 4).softmax(1)
    rows = [slice(0, 2), slice(2, 6)]
    parts = [
        recipes.LossTerm(first, rows[0], 0.5),
        recipes.LossTerm(second, rows[1], 0.3, 'odd'),
        recipes.LossTerm(torch.full((4,), 3), rows[1], 0.2, 'odd'),
    ]
    logits = []
    model.net.register_forward_hook(lambda module, args, output: logits.append(output))
    losses = model._forward_loss(images, parts, None)
    torch.testing.assert_close(losses['loss_cls'], 0.5 * F.cross_entropy(logits[0][:2], first))
    odd = 0.3 * F.cross_entropy(logits[0][2:], second) + 0.2 * F.cross_entropy(logits[0][2:], torch.full((4,), 3))
    torch.testing.assert_close(losses['odd.loss_cls'], odd)


def test_style_losses_of_a_divided_batch_see_the_mixture_of_each_images_labels():
    model = classifier(style=dict(type='snr', num_classes=4)).train()
    (layer,) = [layer for label, layer in style_layers(model) if label == 'snr.stage3']
    logits = []
    layer.register_forward_hook(lambda module, args, output: logits.append(module.logits))
    parts = [
        recipes.LossTerm(torch.tensor([0, 1]), slice(0, 2), 0.5),
        recipes.LossTerm(torch.tensor([2, 3]), slice(2, 4), 0.375, 'stylised'),
        recipes.LossTerm(torch.tensor([3, 0]), slice(2, 4), 0.125, 'stylised'),
    ]
    losses = model._forward_loss(torch.randn(4, 3, 32, 32), parts, None)
    mixture = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.75, 0.25], [0.25, 0, 0, 0.75]])
    torch.testing.assert_close(losses['style.snr.stage3.ce'], layer.ce_weight * F.cross_entropy(logits[0], mixture))


def test_stylised_images_have_the_domains_of_their_own_ones():
    model = classifier(DEBIASED, style=dict(type='mixstyle', mix='crossdomain', p=1.0)).train()
    losses_of(model, domain=['a', 'b', 'a', 'c'])
    for _, layer in style_layers(model):
        if hasattr(layer, 'domains'):
            assert layer.domains.tolist() == [0, 1, 0, 2] * 2


@pytest.mark.parametrize(
    ('recipe', 'error', 'near'),
    [
        ('advbm', ValueError, "did you mean 'advbn'"),
        (dict(type='advbn', lowr='frozen'), TypeError, "did you mean 'lower'"),
        (dict(type='advbn', cut='stge1'), ValueError, "did you mean 'stage1'"),
        (dict(cut='stage1'), ValueError, 'type'),
        (dict(type='advbn', steps=0), ValueError, 'steps'),
        (dict(type='debiased', styliser='pixle'), ValueError, "did you mean 'pixel'"),
    ],
    ids=['recipe', 'argument', 'site', 'type', 'range', 'styliser'],
)
def test_mistakes_in_a_recipe_are_told_when_the_model_is_built(recipe, error, near):
    with pytest.raises(error, match=near):
        classifier(recipe)


def test_layers_that_wait_for_a_recipe_warn_of_its_absence(monkeypatch):
    said = []

    def hear(text, logger, level=logging.INFO):
        said.extend([text] if level == logging.WARNING else [])

    monkeypatch.setattr('timm_stylenorm.runner.model.print_log', hear)
    classifier(ADVBN, style='advbn'), classifier(style='snr')
    assert said == []
    classifier(style='advbn'), classifier(model='resnet18_advbn')
    assert [text.endswith("set model.recipe='advbn'") for text in said] == [True, True]


def test_a_recipe_learns_how_images_are_normalised():
    model = classifier(DEBIASED, data_preprocessor=dict(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    torch.testing.assert_close(model.recipe.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(model.recipe.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))


@pytest.mark.parametrize('recipe', [ADVBN, DEBIASED], ids=['advbn', 'debiased'])
def test_plain_weights_start_both_batch_norms(recipe, trained_plain, tmp_path):
    torch.save(trained_plain.state_dict(), tmp_path / 'plain.pth')
    model = classifier(recipe, init_checkpoint=str(tmp_path / 'plain.pth'))
    assert_copies(model)
    state = {key.replace('.bn.', '.'): value for key, value in model.net.state_dict().items()}
    for key, value in trained_plain.state_dict().items():
        assert torch.equal(state[key], value), key


def test_weights_of_a_recipe_start_another_run_of_it(tmp_path):
    model = classifier(ADVBN).train()
    losses_of(model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'own.pth')
    again = classifier(ADVBN, init_checkpoint=str(tmp_path / 'own.pth'))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('recipe', [ADVBN, DEBIASED], ids=['advbn', 'debiased'])
def test_mixed_precision_trains(recipe):
    model = classifier(recipe).train()
    wrapper = build_optim_wrapper(model, dict(type='CPUAmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1)))
    before = copy.deepcopy(model.state_dict())
    log = model.train_step(batch(), wrapper)
    assert all(value.isfinite() for value in log.values())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize('recipe', [ADVBN, DEBIASED], ids=['advbn', 'debiased'])
def test_accumulated_gradients_are_means_over_the_batches(recipe):
    model = classifier(recipe).train()
    twin, optimizer = copy.deepcopy(model), dict(type='SGD', lr=0.1)
    wrapper = build_optim_wrapper(model, dict(optimizer=optimizer, accumulative_counts=2))
    wrapper.initialize_count_status(model, 0, 2)
    torch.manual_seed(3)
    for seed in (1, 2):
        unchanged = all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
        assert unchanged
        model.train_step(batch(seed=seed), wrapper)
    torch.manual_seed(3)
    for seed in (1, 2):
        (twin.parse_losses(losses_of(twin, batch(seed=seed)))[0] / 2).backward()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    for (name, value), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(value, other), name


@DATASETS.register_module()
class SomeImages(torch.utils.data.Dataset):
    """Random images, augmented with a generator that resume must restore."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        inputs = batch(8)['inputs'][index]
        return dict(inputs=inputs.flip(2) if torch.rand(()) < 0.5 else inputs, targets=index % 4)


@METRICS.register_module()
class Scores(BaseMetric):
    """All scores, for comparison."""

    def process(self, data_batch, data_samples):
        self.results.extend(sample['scores'] for sample in data_samples)

    def compute_metrics(self, results):
        return {'sum': float(sum(scores[0] for scores in results)), 'count': len(results)}


@HOOKS.register_module()
class StopHook(Hook):
    """As if the process was killed at an iteration."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise InterruptedError


def runner(work_dir, recipe, stop=None, train=True, **kwargs):
    loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'), dataset=dict(type='SomeImages'))
    hooks = [dict(type='RNGStateHook'), dict(type='CheckpointGuardHook'), dict(type='EMAHook', momentum=0.3)]
    test = dict(test_dataloader={**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)})
    test |= dict(test_evaluator=dict(type='Scores'), test_cfg=dict())
    training = dict(
        train_dataloader={**loader, 'sampler': dict(type='InfiniteSampler')},
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=5),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
        custom_hooks=hooks + [dict(type='StopHook', at=stop)] * (stop is not None),
    )
    common = dict(
        model=dict(type='StyleNormClassifier', model='test_resnet', num_classes=4, recipe=recipe),
        work_dir=str(work_dir),
        randomness=dict(seed=0),
        default_scope='mmengine',
        log_level='WARNING',
    )
    rest = training if train else {**test, 'custom_hooks': hooks[1:2]}
    return Runner.from_cfg(Config({**common, **rest, **kwargs}))


@HOOKS.register_module()
class GridHook(Hook):
    """Collects the heights of the stylised images that multi-grid gave."""

    seen: list = []

    def before_train(self, runner):
        recipe = runner.model.recipe
        stylise = recipe.stylise
        recipe.stylise = lambda images, index, size: self.seen.append(size[0]) or stylise(images, index, size)


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_multi_grid_follows_the_runner_also_when_it_resumes(by_epoch, tmp_path):
    """Three batches in an epoch; the first half of the training has smaller images."""
    recipe = dict(DEBIASED, multi_grid=(4,), min_size=8)
    loop = dict(type='EpochBasedTrainLoop', max_epochs=4) if by_epoch else dict(max_iters=12)
    loader = dict(batch_size=3, num_workers=0, collate_fn=dict(type='default_collate'), dataset=dict(type='SomeImages'))
    loader['sampler'] = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler')
    kwargs = dict(train_cfg={'type': 'IterBasedTrainLoop', **loop}, train_dataloader=loader)
    kwargs['default_hooks'] = dict(
        checkpoint=dict(type='CheckpointHook', by_epoch=by_epoch, interval=2 if by_epoch else 6)
    )
    GridHook.seen.clear()
    with pytest.raises(InterruptedError):
        runner(tmp_path, recipe, custom_hooks=[dict(type='GridHook'), dict(type='StopHook', at=8)], **kwargs).train()
    turns = 2 * [16, 23, 16] if by_epoch else 3 * [16, 23]
    larger = 2 * [23, 32, 23] if by_epoch else 3 * [23, 32]
    assert GridHook.seen == turns + larger[:2]
    GridHook.seen.clear()
    runner(tmp_path, recipe, resume=True, custom_hooks=[dict(type='GridHook')], **kwargs).train()
    assert GridHook.seen == larger


@pytest.mark.parametrize('recipe', [ADVBN, DEBIASED], ids=['advbn', 'debiased'])
@pytest.mark.some(1)
def test_a_broken_and_resumed_run_ends_with_the_weights_and_averages_of_a_whole_one(recipe, tmp_path):
    runner(tmp_path / 'whole', recipe).train()
    with pytest.raises(InterruptedError):
        runner(tmp_path / 'broken', recipe, stop=3).train()
    torch.rand(3), np.random.rand(3)  # noqa: NPY002 (a new process would not go on where the old one was)
    runner(tmp_path / 'broken', recipe, resume=True).train()
    whole, resumed = (torch.load(tmp_path / f'{name}/iter_5.pth', weights_only=False) for name in ('whole', 'broken'))
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]), f'{part} {key}'


def test_averages_of_a_trained_model_are_those_of_its_weights_and_lead_their_own_life(tmp_path):
    trained = runner(tmp_path, ADVBN)
    model = trained.train()
    (hook,) = [hook for hook in trained.hooks if type(hook).__name__ == 'EMAHook']
    average = hook.ema_model.module
    assert average.recipe is model.recipe
    assert not {id(p) for p in average.parameters()} & {id(p) for p in model.parameters()}
    assert any(not torch.equal(p, q) for p, q in zip(average.parameters(), model.parameters(), strict=True))
    before = copy.deepcopy(model.state_dict())
    losses_of(average.train())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_plain_checkpoint_is_taken_for_fine_tuning(trained_plain, tmp_path):
    state = {f'net.{key}': value for key, value in trained_plain.state_dict().items()}
    torch.save({'state_dict': state, 'meta': {}}, tmp_path / 'plain.pth')
    started = runner(tmp_path / 'run', ADVBN, stop=0, load_from=str(tmp_path / 'plain.pth'))
    with pytest.raises(InterruptedError):
        started.train()
    assert_copies(started.model)
    assert torch.equal(started.model.net.fc.weight, trained_plain.fc.weight)


def test_a_checkpoint_of_a_recipe_tests_the_same_by_its_own_and_by_the_plain_config(tmp_path):
    runner(tmp_path, ADVBN).train()
    last = str(tmp_path / 'iter_5.pth')
    metrics = [runner(tmp_path / 'test', recipe, train=False, load_from=last).test() for recipe in (ADVBN, None)]
    assert metrics[0] == metrics[1]
    assert metrics[0]['count'] == 8
