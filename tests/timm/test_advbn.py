"""AdvBN: the authors' trajectories, what runs again and what does not, and that the ascent climbs."""

import copy
import gc
import warnings
import weakref
from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
from expected import LONELY
from golden_data import assert_matches, load
from nets import small
from since import HALF_ON_CPU
from torch import nn

import timm_stylenorm
from timm_stylenorm.dual_bn import routed
from timm_stylenorm.layers import AdvBN, DualBatchNorm2d
from timm_stylenorm.recipes import build_recipe
from timm_stylenorm.recipes.advbn import ascend, eval_mode
from timm_stylenorm.recipes.replay import Replay

pytestmark = LONELY

ARCHITECTURES = [
    'resnet18', 'densenet121', 'efficientnet_b0', 'convnext_atto', 'regnety_002', 'hrnet_w18_small',
    'mobilenetv3_small_050', 'swin_tiny_patch4_window7_224',
]  # fmt: skip


def closure(model, seen=None):
    """The forward and loss of a host."""

    def forward_loss(images, parts):
        logits = model(images)
        if seen is not None:
            seen.append(logits.detach())
        return {part.label('loss_cls'): F.cross_entropy(logits[part.rows], part.target) for part in parts}

    return forward_loss


def prepared(arch='resnet18', size=64, n=4, **options):
    torch.manual_seed(0)
    model = small(arch, num_classes=4, **({'img_size': size} if 'swin' in arch else {}))
    recipe = build_recipe({'type': 'advbn', 'steps': 2, **options})
    recipe.prepare(model)
    return model.train(), recipe, torch.randn(n, 3, size, size), torch.arange(n) % 4


def golden_head(data):
    """The reference head, and the losses of its adversarial branch in evaluation."""
    losses, weights = [], {k.removeprefix('head.'): v for k, v in data.items() if k.startswith('head.')}

    def loss(features):
        h = F.conv2d(features, weights['conv.weight'], padding=1)
        moments = (weights[f'adv_bn.{k}'] for k in ('running_mean', 'running_var', 'weight', 'bias'))
        h = F.relu(F.batch_norm(h, *moments)).mean((2, 3))
        losses.append(F.cross_entropy(F.linear(h, weights['fc.weight'], weights['fc.bias']), data['target']))
        return losses[-1]

    return loss, losses


@pytest.mark.parametrize('case', ['advbn_a', 'advbn_b', 'advbn_c'])
def test_follows_the_authors_trajectory(case):
    data = load(case)
    loss, losses = golden_head(data)
    for t in range(1, int(data['n_repeats']) + 1):
        layer = AdvBN(steps=t, step=float(data['step']), eps=float(data['scale_eps']), clamp=bool(data['relu_clamp']))
        losses.clear()
        noise = ascend(layer, data['x'], loss)
        torch.testing.assert_close(noise[0], data['noise_mean'][t], rtol=0, atol=1e-6)
        torch.testing.assert_close(noise[1], data['noise_std'][t], rtol=0, atol=1e-6)
        assert_matches(torch.stack(losses), data['loss'][:t])
    assert_matches(layer.perturb(data['x'], *noise), data['adv_feature'])


@HALF_ON_CPU
def test_small_gradients_survive_half_precision():
    torch.manual_seed(0)
    features, weight = torch.rand(4, 6, 8, 8), torch.randn(5, 6, 1, 1)

    def loss(dtype):
        scale = 1e-6  # as the mean over the pixels of a large batch
        return lambda y: scale * F.conv2d(y.to(dtype), weight.to(dtype)).float().square().sum() / 100

    expected, actual = (ascend(AdvBN(steps=1), features, loss(dtype)) for dtype in (torch.float32, torch.float16))
    torch.testing.assert_close(actual, expected)


def test_noise_of_ones_changes_nothing_and_the_clamp_is_found():
    layer, ones = AdvBN(), torch.ones(5)
    x = torch.randn(3, 5, 4, 4)
    torch.testing.assert_close(layer.perturb(x, ones, ones), x)
    assert layer.perturb(x, ones, 2 * ones).min() < 0, 'features that are negative somewhere come out of no ReLU'
    assert layer.perturb(x.relu(), -ones, ones).min() == 0
    assert AdvBN(clamp=False).perturb(x.relu(), -ones, ones).min() < 0
    assert AdvBN(clamp=True).perturb(x, ones, ones).min() == 0


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.some(2)
def test_only_what_lies_above_the_cut_runs_again(arch, monkeypatch):
    model, recipe, x, target = prepared(arch, **({'cut': 'layer1'} if 'hrnet' in arch else {}))
    runs = Counter()
    for kind, forward in ((nn.Conv2d, '_conv_forward'), (nn.Linear, 'forward')):  # hooks would see replayed calls, too
        plain = getattr(kind, forward)
        monkeypatch.setattr(kind, forward, lambda m, *args, plain=plain: runs.update([m]) or plain(m, *args))
    replay = Replay(model, next(layer for _, layer in timm_stylenorm.style_layers(model) if isinstance(layer, AdvBN)))
    below = {m for lower in replay.lower for m in lower.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    losses = recipe.losses(model, x, target, closure(model))
    assert below
    assert {runs[m] for m in below} == {1}
    assert {count for m, count in runs.items() if m not in below} == {2 + 2}
    assert list(losses) == ['loss_cls', 'adv.loss_cls']
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize('lower', ['statistics', 'trainable'])
def test_replayed_passes_equal_whole_passes(lower):
    """With the noise of ones both give the losses and gradients of two plain passes."""
    model, recipe, x, target = prepared(lower=lower, step=1e-12, n=6)
    twin = copy.deepcopy(model)
    losses = recipe.losses(model, x, target, closure(model))
    sum(losses.values()).backward()
    dual = {half for d in twin.modules() if isinstance(d, DualBatchNorm2d) for half in (d.bn, d.aux_bn)}
    for module in twin.modules():
        if lower == 'statistics' and isinstance(module, nn.BatchNorm2d):
            module.train(module in dual)
    clean = F.cross_entropy(twin(x), target)
    statistics = {k: v.clone() for k, v in twin.state_dict().items() if 'aux_bn' not in k}
    with routed(twin, 'adversarial'):
        adversarial = F.cross_entropy(twin(x), target)
    (clean + adversarial).backward()
    torch.testing.assert_close(losses['loss_cls'], clean)
    torch.testing.assert_close(losses['adv.loss_cls'], adversarial)
    gradients = {k: p.grad for k, p in twin.named_parameters()}
    torch.testing.assert_close({k: p.grad for k, p in model.named_parameters()}, gradients, rtol=1e-3, atol=1e-5)
    ours = {k: v for k, v in model.state_dict().items() if 'aux_bn' not in k}
    torch.testing.assert_close(ours, statistics)  # the lower part moved its own once


def test_the_frozen_part_stays_and_modes_come_back():
    model, recipe, x, target = prepared()
    model.layer4.eval()  # as a host may want it
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = {k: m.training for k, m in model.named_modules()}
    sum(recipe.losses(model, x, target, closure(model)).values()).backward()
    after = {k: m.training for k, m in model.named_modules()}
    lower = tuple(f'{k}.' for k in ('conv1', 'bn1', 'act1', 'maxpool', 'layer1.0', 'layer1.1'))
    assert all(after[k] == (modes[k] and not f'{k}.'.startswith(lower)) for k in modes)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {k.rpartition('.')[2] for k in moved} == {'running_mean', 'running_var', 'num_batches_tracked'}
    assert not any(k.startswith((*lower, 'layer4.')) for k in moved)
    assert not any(vars(m).get('forward') or m._forward_hooks for m in model.modules() if m is not model.layer1[1])


def test_layers_of_other_methods_act_and_train_in_the_frozen_part():
    model = small('resnet18', num_classes=4)
    timm_stylenorm.add_style(model, [{'type': 'snr', 'num_classes': 4, 'sites': 'stage1'}, 'mixstyle'])
    timm_stylenorm.add_style(model, {'type': 'ibn_b', 'sites': ['layer1.0.bn1']})
    recipe = build_recipe({'type': 'advbn', 'steps': 1, 'cut': 'stage2'})
    recipe.prepare(model)
    model.train()
    x, target = torch.randn(4, 3, 64, 64), torch.arange(4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        losses = recipe.losses(model, x, target, closure(model))
        losses |= timm_stylenorm.style_losses(model, target)
    sum(losses.values()).backward()
    lower = [layer for label, layer in timm_stylenorm.style_layers(model) if label.endswith(('stage1', 'layer1.0.bn1'))]
    assert [layer.training for layer in lower] == [False, True, True]  # a norm has its host's mode
    assert all(p.grad is not None for layer in lower for p in layer.added_parameters())
    assert model.layer1[0].conv1.weight.grad is None


def test_a_failure_leaves_nothing_behind():
    model, recipe, x, _ = prepared()
    with pytest.raises(IndexError):
        recipe.losses(model, x, torch.tensor([0, 1, 2, 9]), closure(model))
    layer = model.layer1[1].style['advbn']
    assert layer.recorded is layer.disturbed is None
    assert not any(vars(m).get('forward') for m in model.modules())
    assert {m.route for m in model.modules() if isinstance(m, DualBatchNorm2d)} == {'clean'}
    assert model.training


def test_other_layers_run_once_below_the_cut_and_again_above():
    model = small('resnet18', num_classes=4)
    timm_stylenorm.add_style(model, [{'type': 'snr', 'num_classes': 4, 'sites': ('stage1', 'stage3')}])
    recipe = build_recipe({'type': 'advbn', 'steps': 2, 'lower': 'trainable'})
    recipe.prepare(model)
    runs = []
    for label, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, a, y, label=label: runs.append(label))

    def forward_loss(images, parts):
        losses = {part.label('loss_cls'): F.cross_entropy(model(images), part.target) for part in parts}
        style = timm_stylenorm.style_losses(model, parts[0].target)
        return {**losses, **{parts[0].label(f'style.{k}'): v for k, v in style.items()}}

    losses = recipe.losses(model.train(), torch.randn(4, 3, 64, 64), torch.arange(4), forward_loss)
    assert {'style.snr.stage1', 'style.snr.stage3', 'adv.style.snr.stage3'} <= set(losses)
    assert 'adv.style.snr.stage1' not in losses, 'its loss counts once'
    assert runs.count('snr.stage3') == 4
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_evaluation_is_the_plain_network_and_the_plain_loss():
    model, recipe, x, target = prepared()
    plain = small('resnet18', num_classes=4)
    plain.load_state_dict(timm_stylenorm.remove_style(copy.deepcopy(model)).state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert list(recipe.losses(model, x, target, closure(model))) == ['loss_cls']


def test_a_ready_name_keeps_its_cut_and_takes_the_recipes_numbers():
    model = small('resnet18_advbn', num_classes=4, style={'sites': 'stage2', 'steps': 3})
    build_recipe({'type': 'advbn', 'step': 0.1}).prepare(model)
    layer = model.layer2[1].style['advbn']
    assert (layer.steps, layer.step, layer.eps) == (3, 0.1, 1.1)
    assert not model.layer2[1].conv2.weight.requires_grad
    assert model.layer3[0].conv1.weight.requires_grad
    with pytest.raises(ValueError, match=r"cut='stage1'.*'advbn.stage2'"):
        build_recipe({'type': 'advbn', 'cut': 'stage1'}).prepare(model)


def test_a_cut_may_be_named_in_any_way_when_the_layer_is_there():
    model = small('resnet18', num_classes=4)
    for cut in (None, 'stage1', ('stage1',), 'layer1.1'):
        build_recipe({'type': 'advbn', 'cut': cut}).prepare(model)
    assert sum(isinstance(layer, AdvBN) for _, layer in timm_stylenorm.style_layers(model)) == 1


def test_layers_of_other_methods_below_the_cut_go_on_learning():
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), 'snr')
    recipe = build_recipe({'type': 'advbn', 'steps': 1})
    recipe.prepare(model)
    snr = dict(model.layer1[1].style['snr'].named_parameters())
    losses = recipe.losses(model.train(), torch.randn(4, 3, 64, 64), torch.arange(4), closure(model))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in snr.values())
    assert not any(p.requires_grad for p in model.layer1[1].conv2.parameters())


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'type': 'advbm'}, ValueError, "unknown recipe 'advbm'; did you mean 'advbn'"),
        ({'type': 'advbn', 'radius': 1}, TypeError, "unknown argument of recipe 'advbn': 'radius'. Known: clamp, cut"),
        ({'type': 'advbn', 'lower': 'frosen'}, ValueError, "'frosen'; did you mean 'frozen'"),
        ({'steps': 2}, ValueError, "a recipe is a name, or a dict with its name under 'type'"),
    ],
)
def test_wrong_recipes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        build_recipe(options)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'cut': ('stage1', 'stage2')}, 'at one cut, got 2 sites'),
        ({'cut': 'stage9'}, "ResNet has no site 'stage9'"),
        ({'steps': 0}, 'expected a whole number steps >= 1'),
        ({'steps': 1.5}, 'expected a whole number steps >= 1, got 1.5'),
        ({'clamp': 'yes'}, "clamp is true, false or 'auto', got 'yes'"),
    ],
)
def test_wrong_cuts_and_numbers_leave_the_model_alone(options, message):
    model = small('resnet18')
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        build_recipe({'type': 'advbn', **options}).prepare(model)
    assert list(model.state_dict()) == keys


def test_activation_checkpointing_is_refused():
    model = small('resnet18')
    model.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match='do not go with activation checkpointing'):
        build_recipe('advbn').prepare(model)


def pictures(count, generator):
    """Four classes of blobs in noise, whose contrast and brightness vary."""
    target = torch.arange(count) % 4
    x = torch.zeros(count, 3, 32, 32)
    for i, label in enumerate(target.tolist()):
        x[i, :, 8 * label : 8 * label + 8, 8:24] = 1
    scale, shift = (torch.rand(count, 3, 1, 1, generator=generator) for _ in range(2))
    return (x + 0.3 * torch.randn(x.shape, generator=generator)) * (0.5 + scale) + shift - 0.5, target


@pytest.fixture(scope='module')
def trained():
    torch.manual_seed(0)
    model = timm.create_model('resnet10t', num_classes=4).train()
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=2e-3), torch.Generator().manual_seed(0)
    for _ in range(40):
        x, target = pictures(32, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
    x, target = pictures(64, generator)
    assert (model.eval()(x).argmax(1) == target).float().mean() > 0.9
    return model


def test_a_batch_asks_once_whether_features_are_clamped(monkeypatch):
    """A question is a wait for the device."""
    asked = []
    clamps = AdvBN.clamps
    monkeypatch.setattr(AdvBN, 'clamps', lambda layer, x: asked.append(layer.clamp) or clamps(layer, x))
    model, recipe = prepared(n=2, size=32)[:2]
    recipe.losses(model, torch.randn(2, 3, 32, 32), torch.tensor([0, 1]), closure(model))
    assert asked.count('auto') == 1
    assert len(asked) == 1 + 2 + 1  # two steps, and the pass that trains
    assert {layer.clamp for _, layer in timm_stylenorm.style_layers(model) if isinstance(layer, AdvBN)} == {'auto'}


@pytest.mark.slow
def test_the_ascent_raises_the_loss_of_a_trained_network_more_than_random_noise_does(trained):
    model, generator = copy.deepcopy(trained), torch.Generator().manual_seed(1)
    recipe = build_recipe('advbn')
    recipe.prepare(model)
    layer = next(layer for _, layer in timm_stylenorm.style_layers(model) if isinstance(layer, AdvBN))
    for _ in range(8):
        x, target = pictures(16, generator)
        replay = Replay(model, layer)
        with eval_mode(model), replay.recording():
            clean = F.cross_entropy(model(x), target)

        def loss(features, replay=replay, x=x, target=target):
            with replay.playing(features):
                return F.cross_entropy(model(x), target)

        with eval_mode(model):
            noise = ascend(layer, replay.features, loss)
            raised = loss(layer.perturb(replay.features, *noise))
            assert raised > clean
            for _ in range(4):
                signs = [torch.randn(n.shape, generator=generator).sign() for n in noise]
                other = [1 + s * (n - 1).abs() for s, n in zip(signs, noise, strict=True)]
                assert loss(layer.perturb(replay.features, *other)) < raised


class Held:
    """A tensor that a graph holds for the backward pass."""

    def __init__(self, tensor):
        self.tensor = tensor


class Kept:
    """Bytes of the storages that graphs hold, now and at most."""

    def __init__(self):
        self.now = self.most = 0
        self.holders = Counter()

    def pack(self, tensor):
        storage, held = tensor.untyped_storage(), Held(tensor)
        key, size = storage.data_ptr(), storage.nbytes()
        self.now += size * (self.holders[key] == 0)
        self.most = max(self.most, self.now)
        self.holders[key] += 1
        weakref.finalize(held, self.drop, key, size)
        return held

    def drop(self, key, size):
        self.holders[key] -= 1
        self.now -= size * (self.holders[key] == 0)


def kept_by(run):
    gc.collect()
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.tensor):
        run()
    return kept.most


def test_the_ascent_holds_one_graph_of_the_head_at_a_time():
    model, recipe, x, target = prepared(steps=6)
    weights = sum(p.untyped_storage().nbytes() for k, p in model.named_parameters() if p.requires_grad)
    one = kept_by(lambda: F.cross_entropy(model(x), target)) - weights
    most = kept_by(lambda: recipe.losses(model, x, target, closure(model))) - weights
    assert one > 0
    assert most < 2.1 * one, 'the clean graph, and that of a step or of the adversarial pass'
