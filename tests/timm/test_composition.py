"""Several methods in one model: each runs where it would run alone."""

import pytest
import torch
from expected import LONELY
from nets import small
from since import HALF_ON_CPU

import timm_stylenorm
from timm_stylenorm.methods import ROWS as METHODS
from timm_stylenorm.surgery.attachment import replaces_norm

pytestmark = LONELY

MODELS = ('resnet18', 'densenet121', 'vit_tiny_patch16_224')
PAIRS = [
    ('crossnorm', 'mixstyle'), ('mixstyle', 'selfnorm'), ('dsu', 'selfnorm'), ('padain', 'dsu'), ('snr', 'ibn_a'),
    ('ibn_b', 'mixstyle'), ('isw', 'ibn_a'), ('bin', 'efdmix'), ('dsu', 'snr'),
]  # fmt: skip


def plain(arch):
    return small(arch, num_classes=4)


def shapes(model):
    """Label -> shape of what reaches the layer in a training forward."""
    seen = {}
    for label, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, a, y, label=label: seen.__setitem__(label, (a[0].shape, m.channel_dim)))
    model.train()(torch.randn(2, 3, 64, 64))
    return seen


def alone(arch, method):
    try:
        return shapes(timm_stylenorm.add_style(plain(arch), method))
    except ValueError:  # the model has no place for it
        return None


@pytest.mark.parametrize('arch', MODELS)
@pytest.mark.parametrize('pair', PAIRS, ids='-'.join)
@pytest.mark.some(7)
def test_each_method_sees_what_it_sees_alone(arch, pair):
    expected = [alone(arch, method) for method in pair]
    if None in expected:
        with pytest.raises(ValueError, match=r'site|replaces'):
            timm_stylenorm.add_style(plain(arch), list(pair))
        return
    both = expected[0] | expected[1]
    assert shapes(timm_stylenorm.add_style(plain(arch), list(pair))) == both, 'in one call'
    model = plain(arch)
    for method in pair:
        timm_stylenorm.add_style(model, method)
    assert shapes(model) == both, 'one after the other'
    if not any(replaces_norm(layer) for _, layer in timm_stylenorm.style_layers(model)):
        keys = list(plain(arch).state_dict())
        assert list(timm_stylenorm.remove_style(model).state_dict()) == keys
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_pairs_name_methods():
    assert {method for pair in PAIRS for method in pair} <= set(METHODS)


def test_a_place_before_and_one_after_the_same_module():
    model = small('resnet18', num_classes=4, zero_init_last=False)
    after = dict(type='padain', sites='layer1.1.act2', p=1.0)
    timm_stylenorm.add_style(model, [dict(type='ibn_b', sites='stage1.sum'), after])
    order = []
    for label, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, a, y, label=label: order.append((label, bool(a[0].min() >= 0))))
    model.train()(torch.randn(2, 3, 64, 64))
    assert order == [('ibn_b.stage1.sum', False), ('padain.layer1.1.act2', True)]


def test_what_names_a_leaf_stays_a_leaf_with_a_layer_on_it():
    model = plain('vit_tiny_patch16_224')
    for method in ('mixstyle', 'padain'):
        timm_stylenorm.add_style(model, method, sites='patch_embed.proj')
    assert [layer.channel_dim for _, layer in timm_stylenorm.style_layers(model)] == [1, 1]


def test_a_norm_that_is_replaced_keeps_the_hooks_of_others():
    model, seen = plain('resnet18'), []
    model.bn1.register_forward_pre_hook(lambda m, args: seen.append('before'))
    model.bn1.register_forward_hook(lambda m, args, kwargs, y: seen.append('after'), with_kwargs=True)
    timm_stylenorm.add_style(model, 'bin')
    model(torch.randn(2, 3, 64, 64))
    assert seen == ['before', 'after']


def test_domains_reach_the_layers_that_mix_them():
    model = timm_stylenorm.add_style(plain('resnet18'), 'mixstyle', p=1.0, mix='crossdomain')
    timm_stylenorm.set_domains(model, ['art', 'photo', 'art'])
    layer = model.layer1[1].style['mixstyle']
    assert layer.domains.tolist() == [0, 1, 0]
    assert model.train()(torch.randn(3, 3, 32, 32)).isfinite().all()
    with pytest.raises(ValueError, match='domains has 3 labels for a batch of 2 images'):
        model(torch.randn(2, 3, 32, 32))
    timm_stylenorm.set_domains(model, None)
    assert model(torch.randn(2, 3, 32, 32)).isfinite().all()


@HALF_ON_CPU
@pytest.mark.parametrize('method', ['irw', 'isw'])
def test_losses_of_large_maps_are_finite_under_autocast(method):
    row = METHODS[method]
    layer = row.layer(2).train()
    if method == 'isw':
        layer.mask.fill_(True).triu_(1)
        layer.chosen = 1
    x = torch.randn(1, 2, 300, 300) * torch.tensor([1.0, 1.0])[:, None, None]
    x[:, 1] = x[:, 0]
    with torch.autocast('cpu', dtype=torch.float16):
        layer(x.half())
    assert layer.aux.isfinite()
    assert layer.aux.dtype == torch.float32
