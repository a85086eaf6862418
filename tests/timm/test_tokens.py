"""Style layers on tokens and channels-last maps, and within the models of timm that pass them."""

import pytest
import timm
import torch
from expected import LONELY

import timm_stylenorm
from timm_stylenorm.layers import DSU, SNR, BatchInstanceNorm2d, CrossNorm, EFDMix, MixStyle, PermutedAdaIN, SelfNorm
from timm_stylenorm.methods import METHODS

pytestmark = LONELY

LAYERS = {
    'padain': lambda: PermutedAdaIN(p=1.0),
    'mixstyle': lambda: MixStyle(p=1.0),
    'dsu': lambda: DSU(p=1.0),
    'efdmix': lambda: EFDMix(p=1.0),
    'crossnorm': lambda: CrossNorm(p=1.0),
    'snr': lambda: SNR(8, reduction=2),
    'selfnorm': lambda: SelfNorm(8),
}
MODELS = {
    'convnext_atto': dict(),
    'swin_tiny_patch4_window7_224': dict(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), img_size=64),
    'vit_tiny_patch16_224': dict(depth=4, img_size=64),
    'deit_tiny_distilled_patch16_224': dict(depth=4, img_size=64),
    'vit_small_patch14_reg4_dinov2': dict(depth=4, embed_dim=48, num_heads=3, img_size=70),
}


@pytest.mark.parametrize('method', LAYERS)
def test_a_layer_gives_the_same_wherever_the_channels_are(method):
    layer, x = LAYERS[method]().train().double(), torch.randn(4, 8, 5, 6, dtype=torch.double)
    torch.manual_seed(1)
    expected = layer(x)
    layer.channel_dim = -1
    torch.manual_seed(1)
    torch.testing.assert_close(layer(x.movedim(1, -1)).movedim(-1, 1), expected)
    torch.manual_seed(1)
    tokens = x.flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer(tokens).transpose(1, 2).reshape(x.shape), expected)
    layer.prefix_tokens = 2
    special = torch.randn(4, 2, 8, dtype=torch.double)
    torch.manual_seed(1)
    y = layer(torch.cat([special, tokens], 1))
    assert torch.equal(y[:, :2], special)
    torch.testing.assert_close(y[:, 2:].transpose(1, 2).reshape(x.shape), expected)


@pytest.mark.parametrize('arch', MODELS)
@pytest.mark.parametrize('method', LAYERS)
@pytest.mark.some(9)
def test_transformers_train_with_style_after_their_stages(method, arch):
    model = timm.create_model(arch, num_classes=4, **MODELS[arch])
    acting = {k: v for k, v in {'p': 1.0, 'active': 0}.items() if k in METHODS[method].defaults}
    timm_stylenorm.add_style(model, method, sites=('stage1', 'stage2'), **acting)
    size = MODELS[arch].get('img_size', 64)
    torch.manual_seed(0)
    x = torch.randn(5, 3, size, size)
    seen = []
    for _, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, a, y: seen.append((m, a[0].detach(), y.detach())))
    model.train()(x).sum().backward()
    assert len(seen) == 2
    for layer, before, after in seen:
        assert before.shape == after.shape
        prefix = layer.prefix_tokens
        assert torch.equal(before[:, :prefix], after[:, :prefix])
        assert not torch.equal(before[:, prefix:], after[:, prefix:])
    assert all(p.grad.isfinite().all() for _, p in timm_stylenorm.style_parameters(model))
    keys = {k for k in model.state_dict() if '.style.' not in k}
    assert keys == set(timm.create_model(arch, num_classes=4, **MODELS[arch]).state_dict())


def test_statistics_of_tokens_leave_the_class_token_out():
    model = timm.create_model('vit_tiny_patch16_224', depth=2, img_size=64)
    timm_stylenorm.add_style(model, 'padain', sites='stage1', p=1.0)
    (_, layer), = timm_stylenorm.style_layers(model)  # fmt: skip
    x = torch.randn(2, 17, 192)
    x[:, 0] = 1e6
    y = layer.train()(x)
    assert y[:, 1:].abs().max() < 100


def test_a_feature_extractor_of_a_transformer_is_restyled():
    model = timm.create_model(
        'vit_tiny_patch16_224', features_only=True, out_indices=(0, 1), depth=4, img_size=64, pretrained=False
    )
    x = torch.randn(2, 3, 64, 64)
    plain = model.eval()(x)
    timm_stylenorm.add_style(model, 'snr', sites='stage1', reduction=4)
    assert not torch.equal(model(x)[0], plain[0])


def test_other_models_need_to_be_told():
    model = timm.create_model('mixer_s32_224', num_classes=4, img_size=64)
    with pytest.raises(ValueError, match=r'seems to pass tokens there.* channel_dim=-1'):
        timm_stylenorm.add_style(model, 'mixstyle', sites='blocks.0')
    timm_stylenorm.add_style(model, 'mixstyle', sites='blocks.0', channel_dim=-1, p=1.0)
    (_, layer), = timm_stylenorm.style_layers(model)  # fmt: skip
    assert (layer.channel_dim, layer.prefix_tokens) == (-1, 0)
    assert model.train()(torch.randn(2, 3, 64, 64)).isfinite().all()


def test_a_norm_layer_of_maps_refuses_tokens():
    with pytest.raises(ValueError, match='expected 4 dimensions'):
        BatchInstanceNorm2d(8)(torch.randn(2, 8, 5))
