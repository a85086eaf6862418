"""Style methods in mmseg's transformers, whose blocks pass tokens (N, L, C)."""

import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import mmseg_stylenorm  # noqa: F401 (registers)
from timm_stylenorm import style_layers
from timm_stylenorm.functional import mixstyle
from timm_stylenorm.layers import MixStyle
from timm_stylenorm.methods import METHODS, Placement

SWIN = {'type': 'SwinTransformer', 'embed_dims': 8, 'depths': (2, 1, 1, 1), 'num_heads': (1, 2, 2, 2)}
SWIN |= {'window_size': 4, 'drop_path_rate': 0.0, 'out_indices': (3,)}
MIT = {'type': 'MixVisionTransformer', 'embed_dims': 8, 'num_layers': (2, 1, 1, 1), 'num_heads': (1, 2, 4, 8)}
BACKBONES = {'Swin': SWIN, 'MiT': MIT}
ENDS = {'Swin': ('stages.0.blocks.1', 'stages.1.blocks.0'), 'MiT': ('layers.0.1.1', 'layers.1.1.0')}
ADDED = [name for name, row in METHODS.items() if row.placement is Placement.INSERT]
DEFAULT = ('padain', 'mixstyle', 'snr')  # one that permutes, one that mixes, one with a loss


def always(names):
    """All methods, of which one of each kind is tested by default and the others by the slow tests."""
    return [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


@pytest.fixture(params=BACKBONES)
def kind(request):
    return request.param


def segmentor(kind, style, **backbone):
    torch.manual_seed(0)
    head = {'type': 'FCNHead', 'in_channels': 64, 'in_index': -1, 'channels': 8, 'num_convs': 1, 'num_classes': 5}
    head |= {'norm_cfg': {'type': 'BN'}, 'dropout_ratio': 0, 'concat_input': False}
    return MODELS.build(
        ConfigDict(
            type='StyleNormEncoderDecoder', backbone={**BACKBONES[kind], **backbone}, decode_head=head, style=style,
            train_cfg={}, test_cfg={'mode': 'whole'},
        )
    ).train()  # fmt: skip


def batch(count=4, height=64, width=96):
    labels = torch.randint(0, 5, (count, 1, height, width))
    return torch.randn(count, 3, height, width), [SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels]


def step(model, data):
    losses = model.loss(*data)
    total, _ = model.parse_losses(losses)
    total.backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


def test_a_stage_ends_with_its_last_block(kind):
    model = segmentor(kind, {'type': 'snr', 'sites': ('stage1', 'stage2')})
    styled = [name.removesuffix('.style.snr') for name, _ in model.backbone.named_modules() if name.endswith('.snr')]
    assert tuple(styled) == ENDS[kind]
    assert [len(layer.weight) for _, layer in style_layers(model)] == [8, 16]


def test_tokens_are_restyled_as_the_map_they_are(kind, monkeypatch):
    """Through a rearrangement to (N, C, H, W), the function for maps, and back."""
    model = segmentor(kind, {'type': 'mixstyle', 'p': 1.0, 'sites': 'stage1'})
    draws, seen = [], []
    original = MixStyle.mixed

    def mixed(self, x, perm, lmda):
        draws.append((perm, lmda))
        return original(self, x, perm, lmda)

    monkeypatch.setattr(MixStyle, 'mixed', mixed)
    ((_, layer),) = style_layers(model)
    layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    model.backbone(torch.randn(4, 3, 64, 96))
    (tokens, restyled), (perm, lmda) = seen[0], draws[0]
    assert tokens.shape == (4, 16 * 24, 8)
    image = tokens.transpose(1, 2).reshape(4, 8, 16, 24)
    expected = mixstyle(image, perm, lmda, layer.eps).flatten(2).transpose(1, 2)
    torch.testing.assert_close(restyled, expected)
    assert not torch.allclose(restyled, tokens, atol=1e-3)


@pytest.mark.parametrize('method', always(ADDED))
def test_every_method_that_follows_modules_trains_a_step(kind, method):
    style = {'type': method, 'sites': ('stage1', 'stage3')}
    if 'p' in METHODS[method].defaults:
        style['p'] = 1.0
    model = segmentor(kind, style)
    changed = []
    for _, layer in style_layers(model):
        layer.register_forward_hook(lambda m, args, y: changed.append(not torch.equal(args[0], y)))
    _, grads = step(model, batch())
    assert len(changed) == 2
    assert any(changed)
    assert [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize('method', always(name for name in ADDED if 'p' in METHODS[name].defaults))
def test_default_places_train_a_step_and_know_maps_from_tokens(kind, method):
    model = segmentor(kind, {'type': method, 'p': 1.0})
    seen = []
    for _, layer in style_layers(model):
        layer.register_forward_hook(lambda m, args, y: seen.append((args[0].dim(), m.channel_dim)))
    _, grads = step(model, batch())
    assert all(grad.isfinite().all() for grad in grads.values())
    assert len(seen) == len(list(style_layers(model)))
    assert set(seen) <= {(3, -1), (4, 1)}


def test_the_causality_loss_looks_at_tokens_as_at_pixels(kind):
    model = segmentor(kind, {'type': 'snr', 'sites': ('stage1', 'stage2'), 'num_classes': 5, 'dense': True})
    images, samples = batch()
    *_, (_, layer) = style_layers(model)
    kept = []
    layer.register_forward_hook(lambda module, args, output: kept.append(module.logits.detach()))
    losses, grads = step(model, (images, samples))
    assert {'style.snr.stage1', 'style.snr.stage2', 'style.snr.stage2.ce'} <= set(losses)
    target = torch.cat([sample.gt_sem_seg.data for sample in samples])[:, ::8, ::8]
    expected = torch.nn.functional.cross_entropy(kept[0].reshape(4, 5, 8, 12), target)
    torch.testing.assert_close(losses['style.snr.stage2.ce'], layer.ce_weight * expected)
    assert [name for name, grad in grads.items() if grad is None] == []


def test_a_plain_checkpoint_loads_and_style_keys_alone_are_missing(kind):
    plain, styled = segmentor(kind, None), segmentor(kind, ['mixstyle', 'snr'])
    missing, unexpected = styled.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all('.style.snr.' in key for key in missing)


def test_pretrained_weights_reach_the_styled_backbone(kind, tmp_path):
    plain = segmentor(kind, None)
    torch.save({'state_dict': plain.backbone.state_dict()}, tmp_path / 'net.pth')
    styled = segmentor(kind, 'snr', init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / 'net.pth')})
    styled.init_weights()
    for name, value in plain.backbone.state_dict().items():
        assert torch.equal(styled.backbone.state_dict()[name], value), name
    assert all((layer.weight == 1).all() for _, layer in style_layers(styled))


def test_evaluation_is_that_of_the_plain_network_for_methods_of_training(kind):
    plain, styled = segmentor(kind, None).eval(), segmentor(kind, ['mixstyle', 'dsu']).eval()
    styled.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(styled(images, mode='tensor'), plain(images, mode='tensor'))


@pytest.mark.parametrize('method', ['mixstyle', 'snr'])
@pytest.mark.some(2)
def test_activation_checkpointing_changes_no_loss_and_no_gradient(kind, method):
    style = {'type': method, 'sites': ('stage1', 'stage2'), **({'p': 1.0} if method == 'mixstyle' else {})}
    data, results = batch(), []
    for with_cp in (False, True):
        model = segmentor(kind, style, with_cp=with_cp)
        torch.manual_seed(1)
        results.append(step(model, data))
    for plain, checkpointed in zip(*results, strict=True):
        for key, value in plain.items():
            torch.testing.assert_close(checkpointed[key], value, rtol=1e-4, atol=1e-6, msg=key)


def test_methods_that_replace_batch_norm_say_that_there_is_none(kind):
    with pytest.raises(ValueError, match='has no batch norm'):
        segmentor(kind, 'bin')
