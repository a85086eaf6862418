"""With probability p exactly so many layers of a network act in a training step, else none."""

import copy
import pickle
import threading
from collections import Counter

import pytest
import torch
from expected import LONELY
from nets import small
from since import WHOLE_GRAPHS
from torch import nn
from torch.utils.checkpoint import checkpoint

import timm_stylenorm
from timm_stylenorm.layers import CrossNorm
from timm_stylenorm.layers.choice import REMEMBERED, Choice

pytestmark = LONELY
COUNT = 8


class Net(nn.Module):
    """So many convolutions, one after the other."""

    def __init__(self, checkpointing=False):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(COUNT))
        self.checkpointing = checkpointing

    def forward(self, x):
        for conv in self.convs:
            x = checkpoint(conv, x, use_reentrant=False) if self.checkpointing and self.training else conv(x)
        return x


def styled(model, **options):
    """The model, and a list of what acted since it was emptied."""
    acted = []
    timm_stylenorm.add_style(model.train(), 'crossnorm', sites='convs.*', **options)
    for label, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, args, y, label=label: acted.append(label) if y is not args[0] else None)
    return model, acted


MORE = [pytest.param(*pair, marks=pytest.mark.slow) for pair in ((0.75, 3), (0.5, 20))]


@pytest.mark.parametrize(('p', 'active'), [(0.5, 1), (0.25, 2), (1.0, 2), *MORE])
@pytest.mark.some(1)
def test_in_a_thousand_steps_exactly_so_many_layers_act_or_none(p, active):
    torch.manual_seed(0)
    model, acted = styled(Net(), p=p, active=active)
    images, counts, layers = torch.randn(2, 3, 2, 2), Counter(), Counter()
    with torch.no_grad():
        for _ in range(1000):
            model(images)
            counts[len(acted)] += 1
            layers.update(acted)
            acted.clear()
    each = min(active, COUNT)
    assert counts.keys() <= {0, each}
    assert counts[each] / 1000 == pytest.approx(p, abs=0.05)
    assert len(layers) == COUNT
    expected = counts[each] * each / COUNT
    assert all(abs(count - expected) < 5 * expected**0.5 for count in layers.values())


def test_layers_draw_for_themselves_where_none_is_to_be_chosen():
    torch.manual_seed(0)
    model, acted = styled(Net(), p=0.5, active=0)
    counts = Counter()
    for _ in range(200):
        model(torch.randn(2, 3, 2, 2))
        counts[len(acted)] += 1
        acted.clear()
    assert len(counts) > 5


def test_nothing_acts_in_evaluation_and_nothing_is_drawn():
    model, acted = styled(Net(), p=1.0, active=2)
    state = torch.get_rng_state()
    model.eval()(torch.randn(2, 3, 2, 2, generator=torch.Generator()))
    assert not acted
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('forwards', [1, 3])
def test_checkpointing_repeats_the_choice_and_the_draws(forwards):
    """Also of forwards between which no backward pass runs."""
    gradients, images = [], torch.randn(4, 3, 3, 3)
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model, acted = styled(Net(checkpointing), p=0.8, active=2)
        for step in range(5):
            torch.manual_seed(step)
            sum(model(images).square().sum() for _ in range(forwards)).backward()
        gradients.append([p.grad for p in model.parameters()])
        assert acted
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_a_forward_that_broke_off_does_not_count():
    torch.manual_seed(0)
    model, acted = styled(Net(), p=1.0, active=2)
    for _ in range(50):
        partly = torch.randn(2, 3, 2, 2)
        for conv in model.convs[:3]:
            partly = conv(partly)
        acted.clear()
        model(torch.randn(2, 3, 2, 2))
        assert len(acted) == 2
        acted.clear()


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_choose_for_themselves(copied):
    model = timm_stylenorm.add_style(Net(), 'crossnorm', sites='convs.*', p=1.0)
    (one,) = {layer.choice for _, layer in timm_stylenorm.style_layers(model)}
    (other,) = {layer.choice for _, layer in timm_stylenorm.style_layers(copied(model))}
    assert other is not one
    assert (other.count, other.active) == (one.count, one.active) == (COUNT, 2)


def test_forwards_in_threads_choose_each_for_itself():
    """As those of DataParallel's replicas, which share what is no module."""
    choice, found = Choice(COUNT, 2), {}
    barrier = threading.Barrier(3)

    def forward(name):
        for _ in range(20):
            barrier.wait()
            found.setdefault(name, []).append(sum(choice.acts(index, 1.0) for index in range(COUNT)))

    threads = [threading.Thread(target=forward, args=(name,)) for name in 'abc']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(set(counts) == {2} for counts in found.values())
    assert len(found) == 3


def test_what_is_remembered_has_an_end():
    choice = Choice(2, 1)
    for _ in range(REMEMBERED):
        choice.acts(0, 0.5), choice.acts(1, 0.5)
    assert len(choice._known) == REMEMBERED


def test_images_and_blocks_have_choices_of_their_own():
    model = small('resnet18', num_classes=4).train()
    styles = [dict(type='crossnorm', sites='input', crop='both'), dict(type='crossnorm', sites='blocks', active=1)]
    timm_stylenorm.add_style(model, styles)
    layers = [layer for _, layer in timm_stylenorm.style_layers(model)]
    assert sorted({(layer.choice.count, layer.choice.active) for layer in layers}) == [(1, 1), (8, 1)]
    acted = []
    for label, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, args, y, label=label: acted.append(label) if y is not args[0] else None)
    outcomes = set()
    torch.manual_seed(0)
    for _ in range(30):
        model(torch.randn(2, 3, 64, 64))
        outcomes.add((acted.count('crossnorm.input'), sum('layer' in label for label in acted)))
        acted.clear()
    assert outcomes == {(0, 0), (0, 1), (1, 0), (1, 1)}


@WHOLE_GRAPHS
def test_all_layers_in_every_step_are_one_graph():
    model = timm_stylenorm.add_style(Net().train(), 'crossnorm', sites='convs.*', p=1.0, active=COUNT)
    y = torch.compile(model, fullgraph=True, backend='eager')(torch.randn(2, 3, 4, 4))
    assert y.isfinite().all()


def test_a_choice_runs_compiled():
    torch.manual_seed(0)
    model = timm_stylenorm.add_style(Net().train(), 'crossnorm', sites='convs.*', p=0.5, active=1)
    compiled, images = torch.compile(model, backend='eager'), torch.randn(2, 3, 4, 4)
    for step in range(4):
        torch.manual_seed(step)
        y = compiled(images)
        torch.manual_seed(step)
        torch.testing.assert_close(model(images), y)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(images=False), 'images exchange statistics, or channels, or both'),
        (dict(lam=1.5), r'0 <= lam <= 1, got 1\.5'),
        (dict(crop='all'), "crop must be .* got 'all'"),
        (dict(active=-1), 'active >= 0, got -1'),
        (dict(channels=1), 'channels to be true or false, got 1'),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CrossNorm(**options)


@pytest.mark.parametrize('images', [True, False])
def test_channels_are_exchanged_with_images_or_within_each(images):
    x = torch.randn(3, 5, 4, 4, dtype=torch.double)
    torch.manual_seed(2)
    y = CrossNorm(p=1, images=images, channels=True).train()(x)
    torch.manual_seed(2)
    perm = torch.randperm(3) if images else torch.arange(3)
    channel_perm = torch.randperm(5)
    torch.testing.assert_close(y.mean((2, 3)), x.mean((2, 3))[perm][:, channel_perm])
