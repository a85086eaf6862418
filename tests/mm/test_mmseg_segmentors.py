"""mmseg's segmentors with the key `style`, SNR as a plugin, and timm backbones under our names."""

import pytest
import torch
from expected import LONELY
from torch import nn

pytest.importorskip('mmseg')
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_stylenorm  # noqa: F401 (registers)
from timm_stylenorm import add_style, remove_style, style_layers
from timm_stylenorm.layers import SNR, PermutedAdaIN

pytestmark = LONELY

NORM = {'type': 'BN'}
SNR_WITH_LOSS = {'type': 'snr', 'sites': ('stage1', 'stage2'), 'num_classes': 5, 'dense': True}


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')
    torch.manual_seed(0)


def backbone(kind='ResNetV1c', depth=18, **kwargs):
    base = {'type': kind, 'depth': depth, 'base_channels': 8, 'stem_channels': 8, 'norm_cfg': NORM}
    return {**base, **kwargs}


def segmentor(net=None, channels=64, index=3, kind='StyleNormEncoderDecoder', **kwargs):
    head = {'type': 'FCNHead', 'in_channels': channels, 'in_index': index, 'channels': 8, 'num_convs': 1}
    head |= {'num_classes': 5, 'norm_cfg': NORM, 'dropout_ratio': 0, 'concat_input': False}
    test = {'train_cfg': {}, 'test_cfg': {'mode': 'whole'}}
    return MODELS.build(ConfigDict(type=kind, backbone=net or backbone(), decode_head=head, **test, **kwargs))


def batch(count=2, size=32):
    labels = torch.randint(0, 5, (count, 1, size, size))
    labels[:, :, :4] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    return torch.randn(count, 3, size, size), samples


def step(model, data):
    losses = model.loss(*data)
    total, log = model.parse_losses(losses)
    total.backward()
    return losses, total, log


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def test_style_losses_have_their_own_names_and_are_part_of_the_total():
    model = segmentor(style=SNR_WITH_LOSS).train()
    losses, total, log = step(model, batch())
    assert {k for k in losses if k.startswith('style.')} == {
        'style.snr.stage1',
        'style.snr.stage2',
        'style.snr.stage2.ce',
    }
    expected = losses['decode.loss_ce'] + sum(v for k, v in losses.items() if k.startswith('style.'))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(log['loss'], total)


def test_a_style_that_is_only_named_gets_the_classes_from_the_segmentor():
    model = segmentor(style='snr').train()
    losses, _, _ = step(model, batch())
    assert {'style.snr.stage1', 'style.snr.stage2', 'style.snr.stage3', 'style.snr.stage3.ce'} <= losses.keys()
    assert {layer.head.out_features for _, layer in style_layers(model)} == {model.num_classes}
    off = segmentor(style=dict(type='snr', num_classes=0)).train()
    losses, _, _ = step(off, batch())
    assert not [key for key in losses if 'style' in key]


def test_every_parameter_gets_a_gradient_with_the_causality_loss():
    model = segmentor(style=SNR_WITH_LOSS).train()
    step(model, batch())
    assert [name for name, grad in gradients(model).items() if grad is None] == []


def test_ignored_pixels_do_not_enter_the_style_losses():
    model = segmentor(style=SNR_WITH_LOSS).train()
    images, samples = batch()
    for sample in samples:
        sample.gt_sem_seg.data.fill_(255)
    assert model.loss(images, samples)['style.snr.stage2.ce'].item() == 0


def test_the_label_that_the_decode_head_ignores_is_ignored_by_style_losses():
    model = segmentor(style=SNR_WITH_LOSS).train()
    model.decode_head.ignore_index = 3
    images, samples = batch()
    for sample in samples:
        sample.gt_sem_seg.data.fill_(3)
    assert model.loss(images, samples)['style.snr.stage2.ce'].item() == 0


def test_base_keys_stay_and_a_plain_checkpoint_loads():
    plain, styled = segmentor(kind='EncoderDecoder'), segmentor(style=['padain', 'snr'])
    missing, unexpected = styled.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all('.style.snr.' in key for key in missing)


def test_pretrained_weights_reach_the_styled_backbone(tmp_path):
    plain = segmentor(kind='EncoderDecoder')
    torch.save(plain.backbone.state_dict(), tmp_path / 'r18.pth')
    styled = segmentor(style='snr', pretrained=str(tmp_path / 'r18.pth'))
    styled.init_weights()
    for name, value in plain.backbone.state_dict().items():
        assert torch.equal(styled.backbone.state_dict()[name], value), name
    for _, layer in style_layers(styled):
        assert torch.equal(layer.weight, torch.ones_like(layer.weight))


@pytest.mark.parametrize(
    ('net', 'channels'),
    [
        (backbone('ResNet'), 64),
        (backbone('ResNetV1c', 50), 256),
        (backbone('ResNetV1d'), 64),
        (backbone('ResNeXt', 50, groups=4, base_width=4), 256),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
@pytest.mark.parametrize('style', ['padain', 'snr'])
@pytest.mark.some(2)
def test_resnet_family_trains_with_style(net, channels, style):
    model = segmentor(net, channels, style=dict(type=style, **({'p': 1.0} if style == 'padain' else {}))).train()
    kinds = [type(layer) for _, layer in style_layers(model)]
    assert len(kinds) == 3 if style == 'snr' else len(kinds) > 15
    _, total, _ = step(model, batch())
    assert total.isfinite()


@pytest.mark.parametrize(
    ('style', 'error', 'near'),
    [
        ('padian', ValueError, "did you mean 'padain'"),
        (dict(type='snr', reducton=8), TypeError, "did you mean 'reduction'"),
        (dict(type='snr', sites=('stage1', 'stge2')), ValueError, "did you mean 'stage2'"),
        (dict(typ='snr'), ValueError, 'type'),
        (dict(type='padain', p=1.5), ValueError, '1.5'),
    ],
    ids=['method', 'argument', 'site', 'type', 'range'],
)  # fmt: skip
def test_mistakes_in_style_name_what_is_near(style, error, near):
    with pytest.raises(error, match=near):
        segmentor(style=style)


UNET = {'type': 'UNet', 'base_channels': 4, 'num_stages': 3, 'strides': (1, 1, 1), 'enc_num_convs': (2, 2, 2)}
UNET |= {'dec_num_convs': (2, 2), 'downsamples': (True, True), 'enc_dilations': (1, 1, 1), 'dec_dilations': (1, 1)}
MIT = {'type': 'MixVisionTransformer', 'embed_dims': 8, 'num_heads': (1, 1, 1, 1), 'num_layers': (1, 1, 1, 1)}
MIT |= {'drop_path_rate': 0.0}
CHECKPOINTED = {
    'ResNetV1c': (backbone(depth=50), 256, -1, 'stage1', 'convs'),
    'UNet': ({**UNET, 'norm_cfg': NORM}, 4, -1, 'encoder.1.*.convs.1', 'convs'),
    'MobileNetV2': (
        {'type': 'MobileNetV2', 'widen_factor': 0.25, 'norm_cfg': NORM},
        80,
        -1,
        'layer2.1.conv.2',
        'convs',
    ),
    'MixVisionTransformer': (MIT, 8, -1, 'layers.1.1.0.attn.sr', 'layers.*.attn.sr'),
}


@pytest.mark.parametrize('name', CHECKPOINTED)
@pytest.mark.parametrize('method', ['padain', 'snr'])
@pytest.mark.some(2)
def test_activation_checkpointing_changes_no_loss_and_no_gradient(name, method):
    net, channels, index, snr_site, padain_site = CHECKPOINTED[name]
    style = dict(type='padain', p=1.0, sites=padain_site)
    if method == 'snr':
        style = dict(type='snr', sites=snr_site, num_classes=5, dense=True)
    data = batch(4)
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = segmentor({**net, 'with_cp': with_cp}, channels, index, style=style).train()
        torch.manual_seed(1)
        losses, _, _ = step(model, data)
        results.append((losses, gradients(model)))
    for plain, checkpointed in zip(*results, strict=True):
        for key, value in plain.items():
            torch.testing.assert_close(checkpointed[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize('frozen', [False, True])
def test_style_layers_of_frozen_stages_train_unless_they_are_to_be_frozen_too(frozen):
    model = segmentor(backbone(frozen_stages=1), style=[{'type': m, 'frozen': frozen} for m in ('snr', 'mixstyle')])
    for _ in range(2):
        layers = dict(style_layers(model))
        trained = {
            label: any(p.requires_grad for p in layers[label].parameters()) for label in layers if 'snr' in label
        }
        assert trained == {'snr.stage1': not frozen, 'snr.stage2': True, 'snr.stage3': True}
        assert not any(p.requires_grad for p in model.backbone.layer1[0].parameters())
        model.train()
        modes = {label: layer.training for label, layer in layers.items()}
        assert modes == {label: not (frozen and 'stage1' in label) for label in layers}
        assert not model.backbone.layer1[0].training
        assert not any(layer.training for _, layer in style_layers(model.eval()))


def test_snr_as_plugin_sits_in_every_block_and_its_losses_are_collected():
    cfg = {'type': 'SNR', 'reduction': 4}
    plugins = [{'cfg': cfg, 'stages': (True, False, False, False), 'position': 'after_conv3'}]
    model = segmentor(backbone(depth=50, plugins=plugins, with_cp=True), 256).train()
    layers = [m for m in model.modules() if isinstance(m, SNR)]
    assert [layer.reduction for layer in layers] == [4, 4, 4]
    losses, _, _ = step(model, batch())
    assert sum(key.startswith('style.') for key in losses) == 4
    assert all(p.grad is not None for layer in layers for p in layer.parameters())


def test_timm_backbone_under_our_name_brings_its_losses():
    net = {'type': 'TIMMBackbone', 'model_name': 'resnet18_snr', 'pretrained': False}
    model = segmentor(net, 512, -1).train()
    losses, _, _ = step(model, batch())
    assert 'style.snr.stage1' in losses


def test_timm_backbone_with_padain():
    net = {'type': 'TIMMBackbone', 'model_name': 'resnet18_padain', 'pretrained': False}
    model = segmentor(net, 512, -1).train()
    assert any(isinstance(m, PermutedAdaIN) for m in model.modules())
    _, total, _ = step(model, batch())
    assert total.isfinite()


def test_cascade_segmentor_takes_style():
    head = {'in_channels': 64, 'in_index': 3, 'channels': 8, 'num_classes': 5, 'norm_cfg': NORM, 'dropout_ratio': 0}
    heads = [{'type': 'FCNHead', 'num_convs': 1, **head}, {'type': 'OCRHead', 'ocr_channels': 4, **head}]
    model = MODELS.build(
        ConfigDict(
            type='StyleNormCascadeEncoderDecoder', num_stages=2, backbone=backbone(), decode_head=heads,
            style=SNR_WITH_LOSS, train_cfg={}, test_cfg={'mode': 'whole'},
        )
    ).train()  # fmt: skip
    losses, total, _ = step(model, batch())
    assert 'style.snr.stage1' in losses
    assert total.isfinite()


def test_evaluation_leaves_no_losses_and_predicts():
    model = segmentor(style=[dict(type='padain', p=1.0), SNR_WITH_LOSS]).eval()
    images, _ = batch()
    with torch.no_grad():
        first, second = model(images, mode='tensor'), model(images, mode='tensor')
    assert torch.equal(first, second)
    assert all(layer.aux is None for _, layer in style_layers(model))
    assert isinstance(model.backbone, nn.Module)


def test_a_backbone_that_gives_its_layers_back_is_the_plain_one():
    net = MODELS.build(backbone(depth=50))
    keys, variants = list(net.state_dict()), [b.style for stage in net.res_layers for b in getattr(net, stage)]
    add_style(net, ['snr', 'crossnorm'])
    assert not any(isinstance(b.style, str) for b in net.layer1)
    remove_style(net)
    assert list(net.state_dict()) == keys
    assert [b.style for stage in net.res_layers for b in getattr(net, stage)] == variants


@pytest.mark.parametrize(
    ('depth', 'with_cp'),
    [(18, False), (50, True), *(pytest.param(*run, marks=pytest.mark.slow) for run in [(18, True), (50, False)])],
)
@pytest.mark.parametrize('method', ['ibn_b', 'isw', 'irw'])
def test_residual_sums_are_found_in_blocks_that_share_one_activation(method, depth, with_cp):
    model = segmentor(backbone(depth=depth, with_cp=with_cp), 64 if depth == 18 else 256, style=method).train()
    seen = []
    for label, layer in style_layers(model):
        layer.register_forward_hook(lambda m, a, y, label=label: seen.append((label, y.shape[1])))
    for _ in range(2):
        step(model, batch())
    forward = seen[:3]
    assert [label for label, _ in forward] == [f'{method}.{s}' for s in ('stem.norm', 'stage1.sum', 'stage2.sum')]
    assert seen == forward * 2, 'recomputed blocks do not count'
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())
