"""Statistics of channels at sites, before and after their layers, and a probe that tells domains by them."""

import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from timm_stylenorm import add_style
from timm_stylenorm.evaluation.probe import domain_probe
from timm_stylenorm.evaluation.statistics import POSITIONS, Statistics, collect_statistics


@pytest.fixture
def images():
    return torch.rand(6, 3, 64, 64)


@pytest.fixture
def net():
    return timm.create_model('test_resnet', num_classes=3).eval()


def map_after(model, name, images):
    """What a module gives, by a plain hook."""
    taken = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: taken.append(output.clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return taken[0]


def test_moments_and_norms_are_those_of_the_map(net, images):
    found = collect_statistics(net, [images], ['stage1'])['stage1']
    maps = map_after(net, 'layer1', images)
    np.testing.assert_allclose(found.before.mean, maps.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(found.before.std, maps.std((2, 3), correction=0), atol=1e-5)
    norms = maps.square().sum(1).sqrt().flatten(1)
    assert norms.shape[1] == POSITIONS
    np.testing.assert_allclose(found.before.norms, norms, atol=1e-5)
    assert found.before.style.shape == (6, 2 * maps.shape[1])
    np.testing.assert_array_equal(found.after.style, found.before.style)


def test_batches_of_any_size_give_the_same_rows(net, images):
    one = collect_statistics(net, [images], ['stage1', 'stage2'])
    for size in (1, 4):
        several = collect_statistics(net, images.split(size), ['stage1', 'stage2'])
        assert list(several) == ['stage1', 'stage2']
        for name, found in several.items():
            np.testing.assert_allclose(found.before.style, one[name].before.style, atol=1e-5)


def test_positions_are_bounded_and_images_may_differ_in_size(net):
    batches = [torch.rand(2, 3, 160, 160), torch.rand(1, 3, 32, 32)]
    found = collect_statistics(net, batches, 'stage1')['stage1'].before
    assert found.norms.shape == (3, 64)
    assert collect_statistics(net, batches[:1], 'stage1')['stage1'].before.norms.shape == (2, POSITIONS)


def test_a_layer_has_its_map_before_and_its_result_after(images):
    net = add_style(timm.create_model('test_resnet'), 'selfnorm', sites='stage1')
    found = collect_statistics(net, [images], 'stage1')['stage1']
    np.testing.assert_allclose(found.after.mean, map_after(net.eval(), 'layer1', images).mean((2, 3)), atol=1e-5)
    layer = net.layer1[-1].style['selfnorm']
    layer.enabled = False
    np.testing.assert_allclose(found.before.mean, map_after(net, 'layer1', images).mean((2, 3)), atol=1e-5)
    assert not np.allclose(found.before.mean, found.after.mean)


def test_layers_of_training_act_only_when_they_are_asked_to(images):
    net = add_style(timm.create_model('test_resnet'), 'mixstyle', sites='stage1', p=1.0, alpha=1.0)
    modes = [module.training for module in net.modules()]
    rest, acts = (collect_statistics(net, [images], 'stage1', acting=acting)['stage1'] for acting in (False, True))
    np.testing.assert_array_equal(rest.after.style, rest.before.style)
    np.testing.assert_allclose(acts.before.style, rest.before.style, atol=1e-5)
    assert not np.allclose(acts.after.style, acts.before.style, atol=1e-3)
    assert [module.training for module in net.modules()] == modes


def test_batch_norms_have_their_input_before_and_their_output_after(net, images):
    found = collect_statistics(net, [images], 'batch_norms')
    names = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sorted(found) == sorted(names)
    np.testing.assert_allclose(found['conv1.1'].before.mean, map_after(net, 'conv1.0', images).mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(found['conv1.1'].after.mean, map_after(net, 'conv1.1', images).mean((2, 3)), atol=1e-5)


def test_tokens_are_reduced_without_those_of_the_class(images):
    vit = timm.create_model('test_vit', img_size=64)
    found = collect_statistics(vit, [images], 'stage1')['stage1'].before
    tokens = map_after(vit.eval(), 'blocks.0', images)[:, vit.num_prefix_tokens :]
    np.testing.assert_allclose(found.mean, tokens.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.norms[:, 0], tokens[:, 0].norm(dim=1), rtol=1e-5)


def test_the_last_call_of_a_shared_activation_is_the_residual_sum(images):
    import torchvision

    net = torchvision.models.resnet18(num_classes=2)
    found = collect_statistics(net, [images], 'stage1.sum')['stage1.sum'].before
    relu = map_after(net.eval(), 'layer1', images).mean((2, 3))
    assert (found.mean <= relu.numpy() + 1e-6).all()
    assert (found.mean < 0).any()  # before the activation


def test_a_batch_is_pooled_as_batch_norm_pools_it(images):
    net = timm.create_model('test_resnet').eval()
    found = collect_statistics(net, images.split(2), 'batch_norms')['conv1.1'].before
    rows, labels = found.of_batches(['b', 'a', 'a', 'b', 'b', 'a'], 3)
    maps = map_after(net, 'conv1.0', images[[1, 2, 5]])
    assert labels.tolist() == ['a', 'b']
    var, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
    np.testing.assert_allclose(rows[0], torch.cat([mean, var]), atol=1e-5)


def test_batches_larger_than_a_domain_and_other_counts_are_refused():
    few = Statistics(*np.ones((3, 4, 2), np.float32))
    with pytest.raises(ValueError, match="domain 'a' has 1 images, and a batch 2"):
        few.of_batches(['a', 'b', 'b', 'b'], 2)
    with pytest.raises(ValueError, match='3 domains for 4 images'):
        few.of_batches(['a', 'b', 'b'], 1)


def test_what_cannot_be_collected_is_refused_and_leaves_no_hooks(net, images):
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    for batches, site, message in (
        ([images], 'stage9', "no site 'stage9'; did you mean 'stage4'"),
        ([], 'stage1', 'no image was given'),
        ([images], 'fc', 'fc'),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            collect_statistics(net, batches, site)
    with pytest.raises(ValueError, match='arrives nothing for 6 images'):
        collect_statistics(net, [images], 'stage1', forward=lambda images: None)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()) == before


def test_a_probe_tells_domains_that_differ_and_no_others():
    draw = np.random.default_rng(0)
    features, domains = draw.normal(size=(200, 5)), np.repeat(['a', 'b'], 100)
    assert 0.3 < domain_probe(features, domains) < 0.65
    features[:100, 2] += 8
    assert domain_probe(1e6 * features + 1e7, domains) > 0.95


def test_chance_is_the_same_however_large_a_domain_is():
    features = np.random.default_rng(0).normal(size=(220, 3))
    assert 0.3 < domain_probe(features, np.repeat(['few', 'many'], [20, 200])) < 0.7
    assert 0 <= domain_probe(features[:4], np.array([0, 0, 1, 1])) <= 1


@pytest.mark.parametrize(
    ('features', 'domains', 'message'),
    [
        (np.ones((4, 2)), np.zeros(4), 'two domains or more .* got 0.0: 4'),
        (np.ones((3, 2)), np.array([0, 0, 1]), 'got 0: 2, 1: 1'),
        (np.full((4, 2), np.nan), np.array([0, 0, 1, 1]), 'not finite'),
        (np.ones((4, 2)), np.zeros(3), r'\(4, 2\) and \(3,\)'),
    ],
)
def test_a_probe_refuses_what_it_cannot_tell(features, domains, message):
    with pytest.raises(ValueError, match=message):
        domain_probe(features, domains)
