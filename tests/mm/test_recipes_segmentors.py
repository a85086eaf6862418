"""Recipes in mmseg's segmentors: which parts they reach, their losses, their images, and what stays as it was."""

import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

import mmseg_stylenorm  # noqa: F401 (registers)
from timm_stylenorm import recipes, style_layers
from timm_stylenorm.layers import DualBatchNorm2d

NORM = {'type': 'BN'}
ADVBN = {'type': 'advbn', 'cut': 'stage1', 'steps': 2}
DEBIASED = {'type': 'debiased', 'styliser': 'pixel'}
BOTH = pytest.mark.parametrize('recipe', [ADVBN, DEBIASED], ids=['advbn', 'debiased'])
PREPROCESSOR = {
    'type': 'SegDataPreProcessor',
    'mean': [51.0, 102.0, 153.0],
    'std': [25.5, 51.0, 76.5],
    'size': (64, 64),
}
HEAD = {'in_channels': 64, 'in_index': 3, 'channels': 8, 'num_classes': 5, 'norm_cfg': NORM, 'dropout_ratio': 0.1}
FCN = {'type': 'FCNHead', 'num_convs': 1, **HEAD}
LOW_LEVEL = {'type': 'DepthwiseSeparableASPPHead', 'dilations': (1, 3), 'c1_in_channels': 8, 'c1_channels': 4, **HEAD}
LOSSES = [{'type': 'CrossEntropyLoss', 'loss_name': 'loss_ce'}, {'type': 'DiceLoss', 'loss_name': 'loss_dice'}]
HEADS = {
    'fcn': FCN,
    'low level': LOW_LEVEL,
    'ohem': {**FCN, 'sampler': {'type': 'OHEMPixelSampler', 'thresh': 0.7, 'min_kept': 100}},
    'two losses': {**FCN, 'loss_decode': LOSSES},
    'cascade': [FCN, {'type': 'OCRHead', 'ocr_channels': 4, **HEAD}],
}


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')
    torch.manual_seed(0)


def backbone(kind='ResNetV1c', **kwargs):
    return {'type': kind, 'depth': 18, 'base_channels': 8, 'stem_channels': 8, 'norm_cfg': NORM, **kwargs}


def segmentor(recipe=ADVBN, head='low level', net=None, **kwargs):
    heads = HEADS[head]
    kind = 'StyleNormEncoderDecoder'
    if isinstance(heads, list):
        kind, kwargs['num_stages'] = 'StyleNormCascadeEncoderDecoder', len(heads)
    auxiliary = {**FCN, 'in_channels': 32, 'in_index': 2}
    parts = {'backbone': net or backbone(), 'decode_head': heads, 'auxiliary_head': auxiliary}
    test = {'train_cfg': {}, 'test_cfg': {'mode': 'whole'}}
    return MODELS.build(ConfigDict(type=kind, recipe=recipe, **parts, **test, **kwargs))


def batch(count=2, size=32):
    labels = torch.randint(0, 5, (count, 1, size, size))
    labels[:, :, :4] = 255
    info = {'ori_shape': (size, size), 'img_shape': (size, size)}
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=info) for label in labels]
    return torch.randn(count, 3, size, size), samples


def step(model, data=None):
    losses = model(*(data or batch()), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    return losses, total, log


def names_of(model, kind=DualBatchNorm2d):
    return {name for name, module in model.named_modules() if isinstance(module, kind)}


def norms_of(part):
    dual = {f'{name}.{half}' for name in names_of(part) for half in ('bn', 'aux_bn')}
    return names_of(part, nn.BatchNorm2d) - dual


@pytest.mark.parametrize(
    ('lower', 'head'),
    [
        *(('frozen', head) for head in HEADS),
        *(pytest.param('trainable', h, marks=() if h == 'low level' else pytest.mark.slow) for h in HEADS),
    ],
)
def test_advbn_trains_all_heads_and_what_lies_above_the_cut_by_both_passes(head, lower):
    model = segmentor({**ADVBN, 'lower': lower}, head).train()
    losses, total, log = step(model)
    clean = {name for name in losses if not name.startswith('adv.')}
    assert set(losses) == clean | {f'adv.{name}' for name in clean}
    assert {'loss_ce', 'acc_seg'} <= {name.split('.')[-1] for name in clean}
    torch.testing.assert_close(total, sum(value for name, value in losses.items() if 'loss' in name))
    torch.testing.assert_close(log['loss'], total)
    without = {name for name, p in model.named_parameters() if p.grad is None}
    below = {name for name, _ in model.named_parameters() if name.startswith(('backbone.stem', 'backbone.layer1'))}
    assert without == (below if lower == 'frozen' else set())


def test_heads_lie_above_the_cut():
    model = segmentor()
    assert next(label for label, _ in style_layers(model.backbone)) == 'advbn.stage1'
    assert norms_of(model.decode_head) == norms_of(model.auxiliary_head) == set()
    assert norms_of(model) == {f'backbone.{n}' for n in norms_of(model.backbone)}
    assert all(name.startswith(('stem', 'layer1')) for name in norms_of(model.backbone))
    assert {name.split('.')[0] for name in names_of(model)} == {'backbone', 'decode_head', 'auxiliary_head'}


def test_what_lies_below_the_cut_runs_once_and_its_maps_reach_the_head_in_every_pass():
    model = segmentor().train()
    net, times = model.backbone, {'stem': 1, 'first': 1, 'last': 1, 'above': 4, 'low level': 4}
    parts = [net.stem[0], net.layer1[0].conv1, net.layer1[1].conv2, net.layer2[0].conv1]
    calls = {name: [] for name in times}
    for name, part in zip(times, [*parts, model.decode_head.c1_bottleneck], strict=True):
        part.register_forward_pre_hook(lambda module, args, name=name: calls[name].append(args[0]))
    step(model)
    assert {name: len(seen) for name, seen in calls.items()} == times
    clean, *_, adversarial = calls['low level']
    assert not torch.equal(clean, adversarial), 'the map of stage 1 is the disturbed one'


def test_debiased_losses_have_plain_names_and_are_those_of_all_images():
    model = segmentor(DEBIASED).train()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    losses, _, _ = step(model)
    assert sizes == [4]
    assert set(losses) == {f'{head}.{name}' for head in ('decode', 'aux') for name in ('loss_ce', 'acc_seg')}
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert norms_of(model) == set()


@BOTH
def test_style_losses_of_a_pass_are_logged_under_its_name_and_counted(recipe):
    model = segmentor(recipe, style={'type': 'snr', 'sites': ('stage2', 'stage3'), 'num_classes': 5, 'dense': True})
    losses, total, _ = step(model.train())
    style = {f'style.snr.{name}' for name in ('stage2', 'stage3', 'stage3.ce')}
    style |= {f'adv.{name}' for name in style} if recipe is ADVBN else set()
    assert {name for name in losses if 'style' in name} == style
    assert all(losses[name] > 0 for name in style)
    counted = [value for name, value in losses.items() if 'loss' in name or name in style]
    torch.testing.assert_close(total, sum(counted))


@BOTH
def test_in_evaluation_a_segmentor_with_a_recipe_is_the_plain_one(recipe):
    model = segmentor(recipe).train()
    for _ in range(2):
        step(model)
    plain = segmentor(None).eval()
    state = {key.replace('.bn.', '.'): value for key, value in model.state_dict().items()}
    result = plain.load_state_dict(state, strict=False)
    assert result.missing_keys == []
    assert all('.aux_bn.' in key for key in result.unexpected_keys)
    images, samples = batch()
    ours, theirs = ([s.seg_logits.data for s in m.predict(images, samples)] for m in (model.eval(), plain))
    assert all(map(torch.equal, ours, theirs))


@BOTH
@pytest.mark.parametrize('prefix', ['', 'backbone.', pytest.param('module.', marks=pytest.mark.slow)])
def test_pretrained_weights_start_both_batch_norms(recipe, prefix, tmp_path):
    source = MODELS.build(backbone())
    source(torch.randn(4, 3, 32, 32))
    state = {f'{prefix}{key}': value for key, value in source.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'r18.pth')
    init = {'type': 'Pretrained', 'checkpoint': str(tmp_path / 'r18.pth')}
    init |= {'prefix': prefix} if prefix == 'backbone.' else {}
    model = segmentor(recipe, net=backbone(init_cfg=init))
    model.init_weights()
    state = model.backbone.state_dict()
    state = {key.replace('.bn.', '.'): value for key, value in state.items()}
    for key, value in source.state_dict().items():
        assert torch.equal(state[key], value), key
    for name in names_of(model.backbone):
        dual = model.backbone.get_submodule(name)
        for key, value in dual.aux_bn.state_dict().items():
            assert torch.equal(value, source.state_dict()[f'{name}.{key}']), f'{name}.{key}'


@BOTH
def test_initialisation_from_scratch_reaches_both_batch_norms(recipe):
    model = segmentor(recipe, net=backbone(zero_init_residual=True))
    model.init_weights()
    duals = {name: model.get_submodule(name) for name in names_of(model)}
    for name, dual in duals.items():
        for key, value in dual.aux_bn.state_dict().items():
            assert torch.equal(value, dual.bn.state_dict()[key]), f'{name}.{key}'
    zero = {name for name, dual in duals.items() if not dual.weight.any()}
    assert zero
    assert zero == {name for name in duals if name.startswith('backbone.layer') and name.endswith('bn2')}


@BOTH
def test_modes_and_frozen_stages_are_as_before_a_training_step(recipe):
    model = segmentor(recipe, net=backbone(norm_eval=True, frozen_stages=2)).train()
    above = ('backbone.layer2', 'backbone.layer3', 'decode_head', 'auxiliary_head')
    before = {name: m.training for name, m in model.named_modules() if name.startswith(above)}
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    statistics = {name: value.clone() for name, value in model.named_buffers() if name.startswith('backbone')}
    step(model)
    after = {name: m.training for name, m in model.named_modules() if name.startswith(above)}
    assert before == after
    assert trained == {name: p.requires_grad for name, p in model.named_parameters()}
    assert not any(on for name, on in trained.items() if name.startswith(('backbone.layer1', 'backbone.layer2')))
    assert all(torch.equal(value, model.get_buffer(name)) for name, value in statistics.items())
    assert model.decode_head.dropout.training


@BOTH
@pytest.mark.parametrize('kind', ['OptimWrapper', 'CPUAmpOptimWrapper'])
def test_a_train_step_moves_every_weight_above_the_cut_and_logs_all(recipe, kind):
    model = segmentor(recipe, data_preprocessor={**PREPROCESSOR, 'bgr_to_rgb': True}).train()
    wrapper = build_optim_wrapper(model, ConfigDict(type=kind, optimizer={'type': 'SGD', 'lr': 0.1}))
    images, samples = batch(8, 64)  # batch norm gives no gradient for two values
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    before = {name: p.detach().clone() for name, p in trained.items()}
    inputs = list((images * 50 + 100).clamp(0, 255).byte())
    log = model.train_step({'inputs': inputs, 'data_samples': samples}, wrapper)
    assert all(value.isfinite() for value in log.values())
    assert ('adv.decode.acc_seg' in log) == (recipe is ADVBN)
    assert [name for name, p in trained.items() if torch.equal(p, before[name]) or not p.isfinite().all()] == []


class Spy(recipes.Recipe):
    """Sees what a host tells it, and changes nothing."""

    def prepare(self, model, encoder=None, mean=(0.0,), std=(1.0,)):
        self.encoder, self.mean, self.std = encoder, mean.view(-1, 1, 1), std.view(-1, 1, 1)

    def losses(self, model, images, target, forward_loss):
        self.values = images * self.std + self.mean
        return forward_loss(images, [recipes.LossTerm(target)])


@pytest.mark.parametrize('turned', [True, False], ids=['bgr_to_rgb', 'bgr'])
@pytest.mark.parametrize('normalised', [True, False])
def test_a_recipe_can_tell_the_colours_in_rgb_from_0_to_1(turned, normalised, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, 'spy', Spy)
    preprocessor = {**PREPROCESSOR, 'bgr_to_rgb': turned}
    if not normalised:
        preprocessor |= {'mean': None, 'std': None}
    model = segmentor('spy', data_preprocessor=preprocessor, style='padain').train()
    assert model.recipe.encoder is model.backbone
    loaded = torch.tensor([255, 102, 0], dtype=torch.uint8)[:, None, None].expand(3, 64, 64)  # blue, some green
    data = model.data_preprocessor({'inputs': [loaded] * 2, 'data_samples': batch(2, 64)[1]}, training=True)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**data, mode='loss')
    torch.testing.assert_close(model.recipe.values[0, :, 0, 0], torch.tensor([0, 0.4, 1]))
    assert torch.equal(seen[0], data['inputs']), 'the network sees the images as ever'


@pytest.mark.parametrize(
    ('recipe', 'kwargs', 'near'),
    [
        ('advbm', {}, "did you mean 'advbn'"),
        ({'type': 'advbn', 'cut': 'stge1'}, {}, "did you mean 'stage1'"),
        (ADVBN, {'net': backbone(with_cp=True)}, 'activation checkpointing'),
    ],
    ids=['recipe', 'site', 'checkpointing'],
)
def test_mistakes_in_a_recipe_are_told_when_the_segmentor_is_built(recipe, kwargs, near):
    with pytest.raises(ValueError, match=near):
        segmentor(recipe, **kwargs)


def test_a_timm_backbone_that_has_its_layer_keeps_it():
    net = {'type': 'TIMMBackbone', 'model_name': 'resnet18_advbn', 'pretrained': False}
    head = {**FCN, 'in_channels': 512, 'in_index': -1}
    model = MODELS.build(
        ConfigDict(
            type='StyleNormEncoderDecoder', backbone=net, decode_head=head, recipe={'type': 'advbn', 'steps': 3},
            train_cfg={}, test_cfg={'mode': 'whole'},
        )
    ).train()  # fmt: skip
    (layer,) = [layer for label, layer in style_layers(model) if label.startswith('advbn.stage')]
    assert layer.steps == 3
    losses, _, _ = step(model)
    assert 'adv.decode.loss_ce' in losses
