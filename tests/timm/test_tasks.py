"""timm's tasks with style losses and recipes: sums by hand, and what goes through timm's own interface."""

import copy
import socket

import pytest
import timm.task
import torch
import torch.nn.functional as F
from nets import small
from since import since
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, LogitDistillationTask
from timm.utils import CheckpointSaver
from torch import nn

import timm_stylenorm
from timm_stylenorm.dual_bn import routed
from timm_stylenorm.recipes.advbn import ascend, eval_mode
from timm_stylenorm.recipes.apply import recipe_of
from timm_stylenorm.recipes.replay import Replay
from timm_stylenorm.tasks import AdvBNTask, DebiasedTask, StyleNormTask, StyleTask

SEVERAL_LABELS = since('timm', '1.0.31', 'no task for images of several labels')
CRITERION = nn.CrossEntropyLoss()
RECIPES = {'advbn': dict(type='advbn', steps=2), 'debiased': dict(type='debiased', styliser='pixel')}


def net(style=None, arch='test_resnet', **kwargs):
    torch.manual_seed(0)
    model = small(arch, num_classes=3).train()
    return model if style is None else timm_stylenorm.add_style(model, style, **kwargs)


def batch(n=4, size=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator), torch.arange(n) % 3


def quiet(kind, *args, **kwargs):
    return kind(*args, verbose=False, **kwargs)


def steps(task, n=3, **kwargs):
    """Train; the losses of each step."""
    optimizer = torch.optim.SGD(task.get_trainable_module().parameters(), lr=0.05)
    losses = []
    for i in range(n):
        torch.manual_seed(i)
        result = task.train()(*batch(seed=i, **kwargs))
        result['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema(step=i + 2)
        losses.append(result['loss'].item())
    return losses


def test_a_plain_model_trains_as_with_timm_bit_for_bit():
    tasks = [quiet(kind, net(), CRITERION) for kind in (StyleNormTask, ClassificationTask)]
    ours, timms = (task(*batch()) for task in tasks)
    assert ours.keys() == timms.keys()
    assert all(torch.equal(ours[key], timms[key]) for key in ours)
    assert steps(tasks[0]) == steps(tasks[1])


@pytest.mark.parametrize('soft', [False, True])
def test_style_losses_come_on_top(soft):
    style = dict(reduction=4, num_classes=3)
    images, target = batch()
    target = F.one_hot(target, 3).float() if soft else target
    result = quiet(StyleNormTask, net('snr', **style), CRITERION)(images, target)

    model = net('snr', **style)
    loss = F.cross_entropy(model(images), target)
    terms = timm_stylenorm.style_losses(model, target)
    assert {f'style.{name}' for name in terms} == {k for k in result if k.startswith('style')}
    assert 'style.snr.stage3.ce' in result
    torch.testing.assert_close(result['loss'], loss + sum(terms.values()), rtol=0, atol=1e-6)
    assert torch.equal(result['loss_cls'], loss)


def test_the_loss_of_advbn_is_the_clean_one_and_the_one_under_the_ascended_noise():
    images, target = batch()
    task = quiet(AdvBNTask, net(), CRITERION, cut='stage2', steps=2, step=0.1)
    model = copy.deepcopy(task.trainable_module.module)
    replay = Replay(model, next(m for m in model.modules() if type(m).__name__ == 'AdvBN'))
    for module in replay.lower:
        module.eval()
    with replay.recording():
        clean = F.cross_entropy(model(images), target)

    def above(features):
        with replay.playing(features):
            return F.cross_entropy(model(images), target)

    with routed(model, 'adversarial'):
        with eval_mode(model):
            noise = ascend(replay.layer, replay.features, above)
        adversarial = above(replay.layer.perturb(replay.features, *noise))
    result = task(images, target)
    assert adversarial != clean
    assert torch.equal(result['loss_cls'], clean)
    assert torch.equal(result['adv.loss_cls'], adversarial)
    assert torch.equal(result['loss'], clean + adversarial)
    assert result['output'].shape == (4, 3)


def test_the_layers_of_a_model_tell_its_recipe():
    assert recipe_of(net()) is recipe_of(net('snr', reduction=4)) is None
    assert recipe_of(net('advbn')) == 'advbn'
    assert recipe_of(net('debiased')) == 'debiased'
    assert 'adv.loss_cls' in quiet(StyleNormTask, net('advbn', steps=1), CRITERION)(*batch())


def test_the_debiased_task_uses_the_normalisation_of_the_model():
    task = quiet(DebiasedTask, net(), CRITERION, styliser='pixel')
    assert task.recipe.std.flatten().tolist() == list(net().pretrained_cfg['std']) == [0.5] * 3
    assert {'loss_cls', 'stylised.loss_cls'} <= task(*batch()).keys()
    other = quiet(DebiasedTask, net(), CRITERION, styliser='pixel', mean=(0.25,) * 3, std=(0.25,) * 3)
    assert other.recipe.mean.flatten().tolist() == other.recipe.std.flatten().tolist() == [0.25] * 3


def test_recipes_and_style_losses_add_up():
    model = net('snr', sites='stage3', reduction=4, num_classes=3)
    result = quiet(StyleNormTask, model, CRITERION, recipe=RECIPES['debiased'])(*batch())
    terms = [v for k, v in result.items() if k not in ('loss', 'output')]
    assert len(terms) == 4
    torch.testing.assert_close(result['loss'], sum(terms))


@pytest.mark.parametrize('recipe', RECIPES)
def test_evaluation_is_that_of_the_model(recipe):
    task = quiet(StyleNormTask, net(), CRITERION, recipe=RECIPES[recipe]).eval()
    images, target = batch()
    result, logits = task(images, target), task.get_eval_model()(images)
    assert torch.equal(logits, task.trainable_module.module(images))
    assert torch.equal(result['loss'], CRITERION(logits, target))
    assert torch.equal(result['output'], logits)


@pytest.mark.parametrize('recipe', RECIPES)
def test_checkpoints_have_the_keys_of_the_model(recipe, tmp_path):
    task = quiet(StyleNormTask, net(), CRITERION, recipe=RECIPES[recipe])
    task.setup_ema(decay=0.5)
    steps(task, 1)
    state = {**task.get_checkpoint_state(), **task.get_checkpoint_state(ema=True)}
    assert state['state_dict'].keys() == state['state_dict_ema'].keys() == net(recipe).state_dict().keys()

    fresh = quiet(StyleNormTask, net(), CRITERION, recipe=RECIPES[recipe])
    fresh.setup_ema()
    fresh.load_checkpoint_state(state['state_dict'])
    fresh.load_checkpoint_state(state['state_dict_ema'], ema=True)
    images = batch()[0]
    for ema in (False, True):
        logits = [t.eval().get_eval_model(ema=ema)(images) for t in (task, fresh)]
        assert torch.equal(*logits)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    saver = CheckpointSaver(task.get_trainable_module(), optimizer, checkpoint_dir=tmp_path, task=task)
    saver.save_checkpoint(0, metric=1.0)  # the way without `task=` goes by the trainable module
    saver.task = None
    saver._save(tmp_path / 'old.pth', 0)
    assert torch.load(tmp_path / 'old.pth', weights_only=True)['state_dict'].keys() == state['state_dict'].keys()


def test_ema_averages_the_model():
    task = quiet(AdvBNTask, net(), CRITERION, steps=1)
    before = copy.deepcopy(task.trainable_module.module.fc.weight.data)
    task.setup_ema(decay=0.25)
    steps(task, 1)
    after = task.trainable_module.module.fc.weight
    assert not torch.equal(before, after)
    averaged = task.get_checkpoint_state(ema=True)['state_dict_ema']['fc.weight']
    torch.testing.assert_close(averaged, 0.25 * before + 0.75 * after)


def test_optimizers_group_the_parameters_as_those_of_the_model():
    task = quiet(AdvBNTask, net(), CRITERION)
    model = task.trainable_module.module
    for options in (dict(weight_decay=0.1), dict(weight_decay=0.1, layer_decay=0.5)):
        shapes = []
        for trained in (model, task.get_trainable_module()):
            groups = create_optimizer_v2(trained, 'sgd', 0.1, **options).param_groups
            shapes.append([(g['weight_decay'], g.get('lr_scale'), len(g['params'])) for g in groups])
        assert shapes[0] == shapes[1]


@pytest.mark.slow
@pytest.mark.parametrize('recipe', RECIPES)
def test_compiled_recipes_give_the_losses_of_eager_ones(recipe):
    losses, logits = [], []
    for compiled in (False, True):
        torch._dynamo.reset()
        task = quiet(StyleNormTask, net(), CRITERION, recipe=RECIPES[recipe])
        task.setup_ema(decay=0.5)
        if compiled:
            task.compile(backend='eager')
            task.compile_ema(backend='eager')
            assert torch._dynamo.utils.counters.clear() is None
        losses.append(steps(task, 3))
        with torch.no_grad():
            logits += [torch.stack([task.eval().get_eval_model(ema=e)(batch()[0]) for e in (False, True)])]
    assert losses[0] == losses[1]
    assert torch.equal(*logits)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 4
    assert not torch._dynamo.utils.counters['graph_break']


def test_only_what_follows_the_cut_is_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, 'compile', lambda module, **kwargs: compiled.append(module))
    model = net(arch='mobilenetv3_small_050')
    quiet(AdvBNTask, model, CRITERION, cut='stage3').compile()
    assert model.blocks[4] in compiled
    assert model.classifier in compiled
    assert not {model, model.blocks, model.blocks[0], model.blocks[3], model.conv_stem} & set(compiled)


def test_a_model_without_recipe_compiles_as_with_timm():
    torch._dynamo.reset()
    task = quiet(StyleNormTask, net('snr', sites='stage4', reduction=4, num_classes=3), CRITERION)
    eager = task(*batch())
    assert task.compile(backend='eager') is task.get_eval_model()
    compiled = task(*batch())
    assert compiled.keys() == eager.keys()
    torch.testing.assert_close(compiled['loss'], eager['loss'])


@pytest.fixture
def group():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        address = f'tcp://127.0.0.1:{probe.getsockname()[1]}'
    torch.distributed.init_process_group('gloo', init_method=address, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('recipe', RECIPES)
def test_recipes_run_inside_what_ddp_wraps(recipe, group):
    plain, wrapped = (quiet(StyleNormTask, net(), CRITERION, recipe=RECIPES[recipe]) for _ in range(2))
    wrapped.prepare_distributed(device_ids=[torch.device('cpu')], find_unused_parameters=False)  # as timm's script does
    assert steps(plain) == steps(wrapped)
    assert plain.get_checkpoint_state()['state_dict'].keys() == wrapped.get_checkpoint_state()['state_dict'].keys()
    assert not plain.no_sync().__class__.__name__.startswith('_Generator')
    with wrapped.no_sync():
        assert not wrapped.trainable_module.require_backward_grad_sync
        wrapped.train()(*batch())['loss'].backward()


@SEVERAL_LABELS
def test_dense_targets_of_several_labels():
    images, target = batch()[0], torch.tensor([[1.0, 1.0, 0.0]] * 4)
    kind = type('Task', (StyleTask, timm.task.MultiLabelClassificationTask), {})
    task = quiet(kind, net(), BinaryCrossEntropy(smoothing=0), recipe=RECIPES['advbn'])
    result = task(images, target)
    torch.testing.assert_close(
        result['loss_cls'], F.binary_cross_entropy_with_logits(result['output'], target), rtol=0, atol=1e-6
    )
    with pytest.raises(ValueError, match=r'snr.stage1: its class head .* not several'):
        quiet(kind, net('snr', num_classes=3, reduction=4), CRITERION)


@SEVERAL_LABELS
def test_a_task_tells_the_classes_and_leaves_the_loss_off_where_images_have_several_labels():
    told = quiet(StyleNormTask, net('snr', reduction=4), CRITERION)
    assert {'style.snr.stage1', 'style.snr.stage3.ce'} <= told(*batch()).keys()
    kind = type('Task', (StyleTask, timm.task.MultiLabelClassificationTask), {})
    several = quiet(kind, net('snr', reduction=4), BinaryCrossEntropy(smoothing=0))
    assert not [key for key in several(batch()[0], torch.rand(4, 3)) if 'style' in key]


def test_distillation_adds_style_losses_and_refuses_recipes():
    kind = type('Task', (StyleTask, LogitDistillationTask), {})
    task = quiet(kind, net('snr', num_classes=3, reduction=4), net(), CRITERION)
    result = task(*batch())
    assert {'style.snr.stage1', 'loss_cls', 'kd_loss'} <= result.keys()
    assert result['loss'] > result['loss_cls']
    with pytest.raises(ValueError, match='learn from labels, not from a teacher'):
        quiet(kind, net('advbn'), net(), CRITERION)


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda: StyleNormTask(net(), CRITERION, recipe='advbm'), ValueError, "unknown recipe 'advbm'; did you mean"),
        (lambda: AdvBNTask(net(), CRITERION, stpes=2), TypeError, "'stpes'; did you mean 'steps'"),
        (lambda: AdvBNTask(net(), CRITERION, cut='stage9'), ValueError, 'stage9'),
        (
            lambda: StyleNormTask(net('snr', num_classes=7, reduction=4), CRITERION),
            ValueError,
            'num_classes=7',
        ),
    ],
)
def test_errors_come_when_the_task_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_model_in_ddp_is_refused_with_a_recipe(group):
    with pytest.raises(ValueError, match='give the task the bare model'):
        StyleNormTask(nn.parallel.DistributedDataParallel(net()), CRITERION, recipe='advbn')
