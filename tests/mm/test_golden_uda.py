"""MaxSquare's and FADA's losses, and DeepLabV2's classifier, against numbers and keys of the authors' code."""

import pytest
import torch
import torch.nn.functional as F
from golden_data import assert_matches, authors_state, load, load_keys

from timm_stylenorm import functional
from timm_stylenorm.functional.adaptation import domain_loss, soft_labels

MAXSQUARE, FADA_LOSSES = load('maxsquare_a'), load('fada_losses_a')


def test_max_square_loss_and_gradient_are_the_authors():
    logits = MAXSQUARE['logits'].requires_grad_()
    loss = functional.max_square_loss(logits)
    assert_matches(loss, MAXSQUARE['maxsquare_loss'])
    assert_matches(torch.autograd.grad(loss, logits)[0], MAXSQUARE['maxsquare_grad_logits'])


def test_image_weighted_max_square_loss_and_gradient_are_the_mean_of_the_authors_for_single_images():
    logits, ratio = MAXSQUARE['logits'].requires_grad_(), float(MAXSQUARE['ratio'])
    loss = functional.image_weighted_max_square_loss(logits, ratio)
    assert_matches(loss, MAXSQUARE['iw_loss'])
    assert_matches(torch.autograd.grad(loss, logits)[0], MAXSQUARE['iw_grad_logits'])
    for image, expected in zip(logits.split(1), MAXSQUARE['iw_loss_per_image'], strict=True):
        assert_matches(functional.image_weighted_max_square_loss(image, ratio), expected)


@pytest.fixture
def discriminator():
    pytest.importorskip('mmseg')
    from mmseg_stylenorm.uda import ClassDomainDiscriminator

    weights = {key.removeprefix('D.'): v for key, v in FADA_LOSSES.items() if key.startswith('D.')}
    model = ClassDomainDiscriminator(6, 4, channels=(8, 4))
    model.load_state_dict(weights)
    return model


def judged(discriminator, features, size=(7, 9)):
    return F.interpolate(discriminator(features), size, mode='bilinear', align_corners=True)


def test_soft_labels_and_tempered_segmentation_loss_are_the_authors():
    temperature, cap = float(FADA_LOSSES['temperature']), float(FADA_LOSSES['clamp'])
    logits = FADA_LOSSES['src_logits'].requires_grad_()
    loss = F.cross_entropy(logits / temperature, FADA_LOSSES['src_label'], ignore_index=255)
    assert_matches(loss, FADA_LOSSES['loss_seg'])
    assert_matches(torch.autograd.grad(loss, logits)[0], FADA_LOSSES['grad_src_logits'])
    for domain in ('src', 'tgt'):
        labels = soft_labels(FADA_LOSSES[f'{domain}_logits'] / temperature, cap)
        assert_matches(labels, FADA_LOSSES[f'{domain}_soft_label'])
        assert not labels.requires_grad


def test_discriminator_and_adversarial_loss_are_the_authors(discriminator):
    features = FADA_LOSSES['tgt_fea'].requires_grad_()
    logits = judged(discriminator, features)
    assert_matches(logits, FADA_LOSSES['tgt_D_logits'])
    loss = 0.001 * domain_loss(logits, FADA_LOSSES['tgt_soft_label'], 0)
    assert_matches(loss, FADA_LOSSES['loss_adv_tgt'])
    gradient, expected = torch.autograd.grad(loss, features)[0], FADA_LOSSES['grad_tgt_fea']
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_discriminator_losses_and_gradients_are_the_authors(discriminator):
    source = judged(discriminator, FADA_LOSSES['src_fea'])
    target = judged(discriminator, FADA_LOSSES['tgt_fea'])
    assert_matches(source, FADA_LOSSES['src_D_logits'])
    losses = [
        0.5 * domain_loss(source, FADA_LOSSES['src_soft_label'], 0),
        0.5 * domain_loss(target, FADA_LOSSES['tgt_soft_label'], 1),
    ]
    assert_matches(losses[0], FADA_LOSSES['loss_D_src'])
    assert_matches(losses[1], FADA_LOSSES['loss_D_tgt'])
    sum(losses).backward()
    for name, parameter in discriminator.named_parameters():
        assert_matches(parameter.grad, FADA_LOSSES[f'grad_D.{name}'])


def test_the_authors_discriminator_and_classifiers_load_with_their_own_keys():
    pytest.importorskip('mmseg')
    from mmengine.registry import init_default_scope

    from mmseg_stylenorm.heads import DeepLabV2Head
    from mmseg_stylenorm.uda import ClassDomainDiscriminator

    init_default_scope('mmseg')
    ClassDomainDiscriminator(2048, 19).load_state_dict(authors_state('fada_discriminator_19'))
    DeepLabV2Head(2048, num_classes=19).load_state_dict(authors_state('fada_classifier_19'))
    for layer, channels in (('layer5.', 1024), ('layer6.', 2048)):
        shapes = {k.removeprefix(layer): s for k, s, _ in load_keys('deeplab_snr_19')['state_dict'] if layer in k}
        head = DeepLabV2Head(channels, num_classes=19)
        assert {key: list(value.shape) for key, value in head.state_dict().items()} == shapes


def test_networks_have_the_tensors_of_the_authors_networks():
    pytest.importorskip('mmseg')
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    import mmseg_stylenorm  # noqa: F401 (registers the head)
    from timm_stylenorm.runner.configs import config_root

    init_default_scope('mmseg')
    cfg = Config.fromfile(config_root() / '_base_/models/deeplabv2_r101-d8.py').model
    cfg.backbone.norm_cfg.type = 'BN'
    second = {**cfg.decode_head, 'in_channels': 1024, 'in_index': 2}
    snr = {'type': 'snr', 'num_classes': 0}
    with torch.device('meta'):
        plain = MODELS.build(cfg)
        multi = MODELS.build({**cfg, 'type': 'StyleNormEncoderDecoder', 'auxiliary_head': second, 'style': snr})
    keys = {key: list(value.shape) for key, value in plain.state_dict().items() if key.startswith('backbone.')}
    assert keys == {key: shape for key, shape, _ in load_keys('fada_feature_extractor_resnet101')['state_dict']}
    ours = sorted(list(value.shape) for value in multi.state_dict().values())
    assert ours == sorted(shape for _, shape, _ in load_keys('deeplab_snr_19')['state_dict'])
