"""AdvBN on a whole network: the recipe goes the way of the authors' code, step by step."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_data import assert_matches, authors_state, load, load_keys, sample

import timm_stylenorm
from timm_stylenorm.convert import convert
from timm_stylenorm.dual_bn import routed
from timm_stylenorm.layers import AdvBN
from timm_stylenorm.recipes import AdvBNRecipe

NAME = 'net_advbn_resnet18'


@pytest.fixture(scope='module')
def vectors():
    return load(NAME)


@pytest.fixture
def converted():
    """The authors' weights in our network, and the names of both."""
    conversion = convert(authors_state(NAME))
    model = timm_stylenorm.add_style(timm.create_model('resnet18'), conversion.style)
    model.load_state_dict(conversion.state_dict)
    return model, conversion.report.mapped


def assert_logits(actual, d, name):
    noise = 1e-4 if f'{name}_f64_maxdiff' not in d else max(20 * float(d[f'{name}_f64_maxdiff']), 1e-4)
    torch.testing.assert_close(actual[:, ::10], d[name], rtol=0, atol=noise)


def assert_map(actual, d, name, tolerance=1e-3):
    assert_matches(actual.mean(), d[f'{name}.mean'])
    assert_matches(actual.std(correction=0), d[f'{name}.std'])
    expected = d[f'{name}.sample']
    torch.testing.assert_close(sample(actual), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize(('route', 'name'), [('clean', 'clean'), ('adversarial', 'adv')])
def test_both_routes_of_the_network_match(converted, vectors, route, name):
    model, maps = converted[0].eval(), {}
    for stage in ('layer1', 'layer2', 'layer3', 'layer4'):
        model.get_submodule(stage).register_forward_hook(lambda m, a, y, stage=stage: maps.__setitem__(stage, y))
    with torch.no_grad(), routed(model, route):
        logits = model(vectors['x'])
    assert_logits(logits, vectors, f'eval_logits_{name}')
    assert_map(maps.pop('layer1'), vectors, 'eval.feature_x')
    for stage, value in maps.items():
        assert_map(value, vectors, f'eval_{name}.{stage}')


@pytest.fixture
def step(converted, vectors, monkeypatch):
    """One training step by the recipe, and what was seen on the way."""
    model, names = converted
    noise, passes, d = [], [], vectors
    perturb = AdvBN.perturb

    def watched(layer, x, noise_mean, noise_std):
        noise.append((noise_mean.detach().clone(), noise_std.detach().clone()))
        disturbed.append(perturb(layer, x, noise_mean, noise_std))
        return disturbed[-1]

    def forward_loss(images, parts):
        (part,) = parts
        logits = model(images)
        passes.append((logits.detach(), F.cross_entropy(logits, part.target)))
        return {part.label('loss_cls'): passes[-1][1]}

    disturbed = []
    monkeypatch.setattr(AdvBN, 'perturb', watched)
    options = dict(steps=int(d['n_repeats']), step=float(d['step']), eps=float(d['scale_eps']))
    recipe = AdvBNRecipe(**options, lower='frozen')
    recipe.prepare(model)
    losses = recipe.losses(model.train(), d['x'], d['labels'], forward_loss)
    sum(losses.values()).backward()
    return model, names, losses, noise, passes, disturbed[-1]


def test_the_recipe_trains_as_the_authors_do(step, vectors):
    model, names, losses, noise, passes, disturbed = step
    d, (clean, *climbing, adversarial) = vectors, passes
    assert torch.equal(torch.stack([n[0] for n in noise]), d['noise_mean'])
    assert torch.equal(torch.stack([n[1] for n in noise]), d['noise_std'])
    torch.testing.assert_close(torch.stack([loss for _, loss in climbing]), d['perturb_loss'], rtol=1e-4, atol=1e-4)
    assert_map(disturbed, d, 'perturb.adv_feature')
    assert_logits(clean[0], d, 'train_logits_clean')
    assert_logits(adversarial[0], d, 'train_logits_adv')
    torch.testing.assert_close(losses['loss_cls'], d['train_loss_clean'], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(losses['adv.loss_cls'], d['train_loss_adv'], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sum(losses.values()), d['train_loss'], rtol=1e-4, atol=1e-4)
    check_gradients(model, names, d['train_grad_norm'])
    for key in (k for k in d if k.startswith('train_after.')):
        assert_matches(model.get_buffer(names[key.removeprefix('train_after.')]), d[key])


def check_gradients(model, names, norms):
    """Every norm; 0 for what the authors freeze, before the cut."""
    keys, parameters = load_keys(NAME), dict(model.named_parameters())
    compared = set()
    for key, norm in zip(keys['parameters'], norms, strict=True):
        frozen = key in keys['requires_grad_false']
        assert frozen == (norm == 0)
        if key in names:
            gradient = parameters[names[key]].grad
            assert frozen == (gradient is None), key
            compared.add(names[key])
            if gradient is not None:
                small = 1e-5 * float(norms.max())
                torch.testing.assert_close(gradient.norm(), norm, rtol=5e-3, atol=small, msg=key)
    assert compared == parameters.keys()


def test_statistics_below_the_cut_and_of_the_ascent_stay(step):
    """One clean and one adversarial batch have been counted, and neither before the cut."""
    model, state = step[0], authors_state(NAME)
    assert torch.equal(model.bn1.running_mean, state['feature_x.1.running_mean'])
    assert torch.equal(model.layer1[1].bn2.running_var, state['feature_x.4.1.clean_bn2.running_var'])
    counts = {k: int(v) for k, v in model.state_dict().items() if k.endswith('num_batches_tracked')}
    assert {v for k, v in counts.items() if k.startswith(('layer2', 'layer3', 'layer4'))} == {1}
    assert {v for k, v in counts.items() if k.startswith(('bn1', 'layer1'))} == {0}
