"""add_style, style_losses, and what the layers of one method add to the common promises."""

import copy
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from expected import LONELY, UNTAKEN
from nets import small
from since import HALF_ON_CPU, WHOLE_GRAPHS
from torch import nn

import timm_stylenorm
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.layers import SNR, PermutedAdaIN
from timm_stylenorm.surgery.losses import set_classes

pytestmark = LONELY


def resnet(**kwargs):
    return small('resnet18', num_classes=4, **kwargs)


def test_methods_compose_in_order():
    model = timm_stylenorm.add_style(resnet(), [dict(type='padain', sites='stage1', p=1.0), 'snr'])
    assert list(model.layer1[1].style) == ['padain', 'snr']
    x = torch.randn(2, 3, 32, 32)
    assert model.train()(x).isfinite().all()
    assert len(model.layer1[1]._forward_hooks) == 1


@pytest.mark.parametrize(
    ('style', 'kwargs', 'error', 'message'),
    [
        ('padian', {}, ValueError, "unknown style method 'padian'; did you mean 'padain'"),
        ('padain', {'p': 1.5}, ValueError, r'expected 0 <= p <= 1, got 1.5'),
        ('padain', {'prob': 1}, TypeError, "unknown argument of style method 'padain': 'prob'"),
        ('padain', {'mode': 'x'}, ValueError, "mode must be 'permute' or 'source_target'"),
        (dict(type='snr', stes='stage1'), {}, TypeError, "'stes'; did you mean 'sites'"),
        (dict(sites='stage1'), {}, ValueError, "names its method under 'type'"),
        (['snr', 'snr'], {}, ValueError, "'snr' is already at"),
        (['snr', 'padian'], {}, ValueError, "'padian'"),
        (['snr'], {'reduction': 4}, TypeError, 'belong into its dicts'),
        (3, {}, TypeError, 'a name, a dict, or a list'),
        ('snr', {'eps': -1}, ValueError, 'number eps > 0, got -1'),
        ('padain', {'p': '0.1'}, ValueError, "got '0.1'"),
        (dict(type=['snr']), {}, ValueError, "names its method under 'type'"),
        ('snr', {'reduction': 0}, ValueError, 'number reduction > 0'),
    ],
)
def test_wrong_styles_are_named_and_change_nothing(style, kwargs, error, message):
    model = resnet()
    keys = list(model.state_dict())
    with pytest.raises(error, match=message):
        timm_stylenorm.add_style(model, style, **kwargs)
    assert list(model.state_dict()) == keys
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize(
    ('style', 'message'),
    [
        (['bin', 'domainnorm'], "'bin' and 'domainnorm' both replace the norm layer 'bn1'"),
        (['ibn_a', 'bin'], "'ibn_a' and 'bin' both replace the norm layer 'layer1.0.bn1'"),
        (['ibn_b', 'isw'], "'ibn_b' and 'isw' both replace the norm layer 'bn1'"),
        (['bin', 'bin'], "both replace the norm layer 'bn1'"),
        (dict(type='bin', sites='stage1'), "'bin' replaces norm layers, and 'layer1.1' is BasicBlock"),
        (dict(type='ibn_a', sites='fc'), "'ibn_a' replaces norm layers|no convolution"),
        (dict(type='ibn_a', ratio=0.001), 'both need one'),
        (dict(type='padain', channel_dim=2), 'channel_dim must be 1 or -1'),
        (dict(type='isw', clusters=1), 'clusters'),
    ],
)
def test_pairs_and_places_that_make_no_sense_are_refused_by_name(style, message):
    model = resnet()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        timm_stylenorm.add_style(model, style)
    assert list(model.state_dict()) == keys


def test_a_second_replacement_of_a_norm_is_refused_later_too():
    model = timm_stylenorm.add_style(resnet(), 'ibn_a')
    with pytest.raises(ValueError, match=r"'ibn_a' and 'bin' both replace the norm layer 'layer1\.0\.bn1'"):
        timm_stylenorm.add_style(model, 'bin')
    timm_stylenorm.add_style(model, ['mixstyle', dict(type='bin', sites='layer4.0.bn1')])
    assert {label.partition('.')[0] for label, _ in timm_stylenorm.style_layers(model)} == {'ibn_a', 'bin', 'mixstyle'}


def test_layer_norms_are_not_replaced():
    model = timm.create_model('convnext_atto')
    with pytest.raises(ValueError, match=r"replaces batch norm, and 'stages.0.blocks.0.norm' is LayerNorm"):
        timm_stylenorm.add_style(model, 'ibn_a')


def test_a_fused_activation_stays_after_the_new_norm():
    base = timm.create_model('efficientnet_b0', num_classes=4).eval()
    model, x = copy.deepcopy(base), torch.randn(2, 3, 64, 64)
    timm_stylenorm.add_style(model, 'bin')
    torch.testing.assert_close(model(x), base(x), rtol=1e-4, atol=1e-5)
    timm_stylenorm.remove_style(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in base.modules()]
    assert torch.equal(model(x), base(x))


@pytest.mark.parametrize('arch', ['resnet18', 'resnet50'])
def test_a_residual_sum_is_found_in_blocks_with_one_activation_module(arch):
    """torchvision's blocks call one ReLU several times; timm's have one for each place."""
    theirs, ours = getattr(torchvision.models, arch)(num_classes=4), timm.create_model(arch, num_classes=4)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (theirs, ours):
        timm_stylenorm.add_style(model, 'ibn_b').train()
    for _ in range(2):
        torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-5)
    assert [label for label, _ in timm_stylenorm.style_layers(theirs)] == [
        label for label, _ in timm_stylenorm.style_layers(ours)
    ]
    clone = copy.deepcopy(theirs)
    torch.testing.assert_close(clone(x), ours(x), rtol=1e-4, atol=1e-5)


def test_a_block_that_calls_its_activation_otherwise_is_refused():
    model = torchvision.models.resnet18()
    timm_stylenorm.add_style(model, 'ibn_b')
    block = model.layer1[1]
    block.forward = lambda x: block.relu(block.conv1(x))
    with pytest.raises(RuntimeError, match='called its activation 1 times, not 2'):
        model(torch.randn(1, 3, 64, 64))


def test_a_module_with_its_own_style_is_left_alone():
    model = resnet()
    model.layer1[1].style = nn.Identity()
    with pytest.raises(ValueError, match='has an attribute `style` of its own'):
        timm_stylenorm.add_style(model, 'snr')
    assert isinstance(model.layer1[1].style, nn.Identity)


def test_losses_are_taken_once_and_weighted():
    model = timm_stylenorm.add_style(resnet(), 'snr', num_classes=4).train()
    with pytest.warns(StyleNormWarning, match='snr: layers that have a loss left none'):
        assert timm_stylenorm.style_losses(model) == {}
    x, y = torch.randn(3, 3, 32, 32), torch.tensor([0, 3, 1])
    model(x)
    deepest = model.layer3[1].style['snr']
    cross_entropy = 0.01 * F.cross_entropy(deepest.logits, y)
    losses = timm_stylenorm.style_losses(model, y)
    assert list(losses) == ['snr.stage1', 'snr.stage2', 'snr.stage3', 'snr.stage3.ce']
    torch.testing.assert_close(losses['snr.stage3.ce'], cross_entropy)
    assert losses['snr.stage1'].item() == pytest.approx(0.0139, abs=5e-4), 'two softplus near zero, times 0.01'
    with pytest.warns(StyleNormWarning, match='snr: layers that have a loss left none'):
        assert timm_stylenorm.style_losses(model) == {}
    model.eval()(x)
    assert timm_stylenorm.style_losses(model, y) == {}


def test_two_styled_networks_in_one_module_keep_all_losses():
    pair = nn.ModuleList([timm_stylenorm.add_style(resnet(), 'snr', num_classes=4).train() for _ in range(2)])
    for net in pair:
        net(torch.randn(2, 3, 32, 32))
    losses = timm_stylenorm.style_losses(pair, torch.tensor([0, 1]))
    assert len(losses) == 8
    assert 'snr.stage1#2' in losses
    assert 'snr.stage3#2.ce' in losses


def test_losses_that_nobody_took_are_not_handed_out_later():
    model = timm_stylenorm.add_style(resnet(), 'snr', num_classes=4)
    x = torch.randn(2, 3, 32, 32)
    model.train()(x)
    model.eval()(x)
    assert timm_stylenorm.style_losses(model, torch.tensor([0, 1])) == {}


def test_class_heads_are_checked_against_the_model():
    model = timm_stylenorm.add_style(resnet(), 'snr', num_classes=5)
    with pytest.raises(ValueError, match=r'num_classes=5, dense=False, and this model num_classes=4, dense=False'):
        set_classes(model, 4, dense=False)
    with pytest.raises(ValueError, match='dense=True'):
        set_classes(model, 5, dense=True)
    set_classes(model, 5, dense=False)


def test_a_host_gives_the_classes_only_to_layers_that_nobody_has_told():
    model = nn.ModuleDict({k: timm_stylenorm.add_style(resnet(), 'snr', **kw) for k, kw in HEADS.items()})
    set_classes(model, 4, dense=False)
    heads = {k: [layer.head for _, layer in timm_stylenorm.style_layers(net)] for k, net in model.items()}
    assert heads['off'] == [None] * 3
    assert [head.weight.shape for head in heads['untold']] == [head.weight.shape for head in heads['told']]
    untold = timm_stylenorm.add_style(resnet(), 'snr')
    set_classes(untold, 0, dense=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        untold.train()(torch.randn(2, 3, 32, 32))


HEADS = {'untold': {}, 'told': {'num_classes': 4}, 'off': {'num_classes': 0}}


def test_training_without_the_classes_is_told_once_and_evaluation_is_not(recwarn):
    warnings.simplefilter('default')
    model = timm_stylenorm.add_style(resnet(), 'snr')
    model.eval()(torch.randn(2, 3, 32, 32))
    assert not [w for w in recwarn if str(w.message).startswith('snr: ')]
    for _ in range(2):
        model.train()(torch.randn(2, 3, 32, 32))
    (told,) = [str(w.message) for w in recwarn if str(w.message).startswith('snr: ')]
    assert 'num_classes=K' in told


def test_files_with_and_without_class_heads_load_into_models_with_and_without():
    models = {k: timm_stylenorm.add_style(resnet(), 'snr', **kw) for k, kw in HEADS.items()}
    with torch.no_grad():
        for model in models.values():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
    for source in models.values():
        for target in models.values():
            kept = {k: v.clone() for k, v in target.state_dict().items() if '.head.' in k}
            target.load_state_dict(source.state_dict())
            wanted = {**target.state_dict(), **kept, **{k: v for k, v in source.state_dict().items() if k in kept}}
            wanted |= {k: v for k, v in source.state_dict().items() if k in wanted}
            assert all(torch.equal(v, wanted[k]) for k, v in target.state_dict().items())
    missing, _ = models['told'].load_state_dict(resnet().state_dict(), strict=False)
    assert sum('.head.' in key for key in missing) == 6, 'a plain file has no SNR at all'


@pytest.mark.parametrize('dtype', [pytest.param(torch.float16, marks=HALF_ON_CPU), torch.bfloat16])
@pytest.mark.parametrize('dense', [False, True])
def test_snr_with_loss_in_half_precision(dtype, dense):
    layer, x = SNR(8, num_classes=3, dense=dense).to(dtype).train(), torch.randn(2, 8, 4, 4, dtype=dtype)
    assert layer(x.requires_grad_()).dtype == dtype
    layer.aux.backward()
    assert layer.head.weight.grad.isfinite().all()


def test_a_styled_model_runs_on_the_meta_device():
    with torch.device('meta'):
        model = timm_stylenorm.add_style(resnet(), ['padain', 'snr'])
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)


def test_norm_layers_are_no_place_for_attached_methods():
    model = resnet()
    with pytest.raises(ValueError, match="'bn1' is a norm layer"):
        timm_stylenorm.add_style(model, 'padain', sites='norms')
    assert not any(m._forward_hooks for m in model.modules())


def test_rows_without_positions_are_refused():
    with pytest.raises(ValueError, match=r'expected a map .* got shape \(2, 5\)'):
        PermutedAdaIN(p=1)(torch.randn(2, 5))


def test_soft_targets_equal_hard_ones():
    model = timm_stylenorm.add_style(resnet(), 'snr', num_classes=4).train()
    x, y = torch.randn(3, 3, 32, 32), torch.tensor([0, 3, 1])
    model(x)
    hard = timm_stylenorm.style_losses(model, y)['snr.stage3.ce']
    model(x)
    soft = timm_stylenorm.style_losses(model, F.one_hot(y, 4).float())['snr.stage3.ce']
    torch.testing.assert_close(hard, soft)


def test_dense_losses_ignore_what_is_not_labelled():
    layer = SNR(6, 2, num_classes=5, dense=True).train()
    labels = torch.randint(0, 5, (2, 8, 8))
    labels[:, :4] = 255
    layer(torch.randn(2, 6, 4, 4))
    logits = layer.logits
    expected = 0.01 * F.cross_entropy(logits, labels[:, ::2, ::2], ignore_index=255)
    losses = timm_stylenorm.style_losses(layer, labels)
    torch.testing.assert_close(losses['snr.ce'], expected)
    layer(torch.randn(2, 6, 4, 4))
    nothing = timm_stylenorm.style_losses(layer, torch.full((2, 8, 8), 255))
    assert nothing['snr.ce'] == 0


def test_every_class_index_of_an_image_counts_and_torchs_ignored_label_does_not():
    layer = SNR(6, 2, num_classes=1000).train()
    for label in (254, 255, 256):
        layer(torch.randn(2, 6, 4, 4))
        alone = 0.01 * F.cross_entropy(layer.logits[:1], torch.tensor([label]))
        losses = timm_stylenorm.style_losses(layer, torch.tensor([label, -100]))
        torch.testing.assert_close(losses['snr.ce'], alone)
        layer(torch.randn(2, 6, 4, 4))
        expected = 0.01 * F.cross_entropy(layer.logits, torch.tensor([label, label]))
        losses = timm_stylenorm.style_losses(layer, torch.tensor([label, label]))
        torch.testing.assert_close(losses['snr.ce'], expected)


def test_image_labels_for_a_dense_loss_are_refused():
    layer = SNR(6, 2, num_classes=5, dense=True).train()
    layer(torch.randn(2, 6, 4, 4))
    with pytest.raises(ValueError, match='image labels need dense=False'):
        timm_stylenorm.style_losses(layer, torch.tensor([1, 2]))


def test_the_head_exists_only_with_the_loss():
    plain = timm_stylenorm.add_style(resnet(), 'snr').train()
    assert not any('head' in n for n, _ in timm_stylenorm.style_parameters(plain))
    plain(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in plain.parameters())


def test_losses_survive_checkpointing():
    model = timm_stylenorm.add_style(resnet(), 'snr', num_classes=4).train()
    x, gradients = torch.randn(3, 3, 32, 32), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x)
        sum(timm_stylenorm.style_losses(model, torch.tensor([0, 3, 1])).values()).backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], grad, rtol=1e-4, atol=1e-7)


@WHOLE_GRAPHS
@pytest.mark.parametrize('p', [0.0, 1.0])
def test_padain_without_a_coin_compiles_whole(p):
    layer, x = PermutedAdaIN(p=p).train(), torch.randn(3, 4, 5, 5)
    compiled = torch.compile(layer, fullgraph=True, backend='eager')
    assert torch.equal(compiled(x), x) == (p == 0)


@WHOLE_GRAPHS
def test_padain_coin_costs_one_graph_break_and_branch_free_none():
    x = torch.randn(3, 4, 5, 5)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(PermutedAdaIN(p=0.5).train())(x)
    assert explained.graph_break_count == 1
    torch._dynamo.reset()
    layer = PermutedAdaIN(p=0.5, branch_free=True).train()
    compiled = torch.compile(layer, fullgraph=True, backend='eager')
    unchanged = sum(torch.equal(compiled(x), x) for _ in range(200))
    assert 60 < unchanged < 140


@pytest.mark.parametrize('branch_free', [False, True])
def test_padain_fires_as_often_as_p_says(branch_free):
    layer, x = PermutedAdaIN(p=0.2, branch_free=branch_free).train(), torch.randn(2, 3, 4, 4)
    fired = sum(not torch.equal(layer(x), x) for _ in range(500))
    assert 60 < fired < 140


def test_padain_in_eval_is_the_input_itself_and_draws_nothing():
    layer, x = PermutedAdaIN(p=1).eval(), torch.randn(2, 3, 4, 4)
    state = torch.get_rng_state()
    assert layer(x) is x
    assert torch.equal(torch.get_rng_state(), state)


def test_padain_halves_must_be_equal():
    layer = PermutedAdaIN(p=1e-9, mode='source_target').train()
    with pytest.raises(ValueError, match='in equal halves, got 3 images'):
        layer(torch.randn(3, 2, 4, 4))
    assert layer(torch.randn(1, 2, 4, 4)).isfinite().all()


def test_snr_equals_its_formula_in_float64():
    layer, x = SNR(6, 2).double(), torch.randn(3, 6, 5, 4, dtype=torch.double)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    normalised = F.instance_norm(x, weight=layer.weight, bias=layer.bias, eps=1e-5)
    residual = x - normalised
    gate = layer.fc2(layer.fc1(residual.mean((2, 3), keepdim=True)).relu()).sigmoid()
    torch.testing.assert_close(layer(x), normalised + gate * residual, rtol=1e-9, atol=1e-9)


@UNTAKEN
@pytest.mark.parametrize('dense', [False, True])
def test_snr_gradients(dense):
    layer, x = SNR(4, 2, num_classes=3, dense=dense).double(), torch.randn(2, 4, 3, 2, dtype=torch.double)

    def outputs(x, *parameters):
        return layer(x), layer.aux, layer.logits

    assert torch.autograd.gradcheck(outputs, (x.requires_grad_(), *layer.parameters()))


def test_snr_narrower_than_its_reduction_keeps_a_gate():
    assert SNR(3).fc1.weight.shape == (1, 3, 1, 1)
