"""Adaptation: pairs of domains in a batch, MaxSquare and FADA."""

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')
from mmengine.registry import init_default_scope
from mmseg.models import SegDataPreProcessor
from mmseg.registry import DATASETS
from tiny_uda import CLASSES, KINDS, MODEL, PAIRS, SOURCE, TARGET, batch, build, gradients, losses_of

from mmseg_stylenorm.uda.maxsquare import guidance
from timm_stylenorm import style_layers
from timm_stylenorm.functional import image_weighted_max_square_loss, max_square_loss
from timm_stylenorm.functional.adaptation import domain_loss, soft_cross_entropy, soft_labels


def assert_equal_gradients(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-6, msg=name)


# --- data


def test_a_batch_holds_both_domains_each_in_its_own_size():
    data = build('maxsquare').data_preprocessor(batch(), training=True)
    assert data['inputs'].shape == (2, 3, 24, 40)
    assert data['target']['inputs'].shape == (2, 3, 16, 32)
    assert [sample.number for sample in data['data_samples']] == [0, 1]
    assert not any('gt_sem_seg' in sample for sample in data['target']['data_samples'])


def test_target_images_follow_the_seed_and_reach_all_of_the_target():
    data = DATASETS.build(copy.deepcopy(PAIRS))
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append([data[k % 6]['target']['data_samples'].number for k in range(60)])
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == set(range(5))


def test_processes_with_generators_in_the_same_state_draw_other_target_images():
    data = DATASETS.build(copy.deepcopy(PAIRS))
    numbers = []
    for index in (0, 1):
        torch.manual_seed(0)
        numbers.append(data[index]['target']['data_samples'].number)
    assert numbers[0] != numbers[1]


def test_a_plain_segmentor_trains_on_the_source_part_of_the_same_batches():
    model = build()
    losses = model(**model.data_preprocessor(batch(), training=True), mode='loss')
    assert losses.keys() == {'decode.loss_ce', 'decode.acc_seg'}


def test_other_classes_in_the_target_are_refused():
    init_default_scope('mmseg')
    with pytest.raises(ValueError, match=r"classes \['a', 'b', 'c', 'd'\] and the target \['x'\]"):
        DATASETS.build(copy.deepcopy({**PAIRS, 'target': {**TARGET, 'classes': ('x',)}}))


def test_a_list_of_the_same_classes_is_the_same():
    assert len(batch(dataset={**PAIRS, 'target': {**TARGET, 'classes': list(CLASSES)}})['target']['inputs']) == 2


def test_training_without_target_images_says_which_data_set_to_use():
    with pytest.raises(ValueError, match='UDADataset'):
        build('fada').data_preprocessor(batch(dataset=SOURCE), training=True)


def test_a_preprocessor_that_drops_the_target_images_does_not_pass_for_adaptation():
    scoped = {**MODEL['data_preprocessor'], 'type': 'mmseg.SegDataPreProcessor'}
    assert 'target.loss_max_square' in losses_of(build('maxsquare', data_preprocessor=scoped))[1]
    model = build('maxsquare')
    model.data_preprocessor = SegDataPreProcessor(size=(24, 40))
    with pytest.raises(ValueError, match=r'MaxSquareUDA: no target images .*UDADataPreProcessor'):
        losses_of(model)


# --- MaxSquare


@pytest.mark.parametrize('weighted', [False, True])
def test_maxsquare_has_the_gradient_of_a_source_and_a_target_backward(weighted):
    model = build('maxsquare', image_weighted=weighted)
    data = model.data_preprocessor(batch(), training=True)
    images = data['target']['inputs']

    def target_logits():
        features = model.extract_feat(images)
        heads = (model.decode_head, model.auxiliary_head)
        return [F.interpolate(h(features), images.shape[2:], mode='bilinear', align_corners=True) for h in heads]

    main, low = target_logits()
    sure = torch.maximum(main.softmax(1).amax(1), low.softmax(1).amax(1))
    model.threshold = sure.median().item()  # of half of the pixels
    losses = model(**data, mode='loss')
    actual = gradients(model, model.parse_losses(losses)[0])
    source = {k: v for k, v in model(**data, mode='loss').items() if not k.startswith('target')}
    expected = gradients(model, model.parse_losses(source)[0])
    main, low = target_logits()
    square = (image_weighted_max_square_loss if weighted else max_square_loss)(main)
    labels = guidance(main, low, model.threshold)
    assert 0 < (labels == 255).sum() < labels.numel()
    total = 0.1 * (square + 0.1 * F.cross_entropy(low, labels, ignore_index=255))
    for name, value in gradients(model, total).items():
        expected[name] += value
    assert_equal_gradients(actual, expected)


def weights_by_image(labels, classes, ratio):
    """1 / max(count^ratio * total^(1 - ratio), 1) of the class of each pixel, by loops."""
    weights = torch.empty(labels.shape)
    for n, image in enumerate(labels):
        for c in range(classes):
            count = int((image == c).sum())
            weights[n][image == c] = 1 / max(count**ratio * image.numel() ** (1 - ratio), 1)
    return weights


@pytest.mark.parametrize('weighted', [False, True])
def test_minent_is_the_entropy_of_the_target(weighted):
    model = build('maxsquare', target_loss='entropy', image_weighted=weighted, level_weight=0)
    data, losses = losses_of(model)
    images = data['target']['inputs']
    logits = F.interpolate(
        model.decode_head(model.extract_feat(images)), images.shape[2:], mode='bilinear', align_corners=True
    )
    p = logits.softmax(1)
    entropies = -(p * p.log()).sum(1)
    if weighted:
        weights = weights_by_image(p.argmax(1), 4, 0.2)
        expected = (entropies * weights).sum() / (len(images) * 4)
    else:
        expected = entropies.mean() / 4
    torch.testing.assert_close(losses['target.loss_entropy'], 0.1 * expected)
    actual = gradients(model, losses['target.loss_entropy'])
    assert_equal_gradients(actual, gradients(model, 0.1 * expected))


def test_an_unknown_target_loss_is_refused():
    with pytest.raises(ValueError, match=r"unknown target_loss 'entropi'; did you mean 'entropy'"):
        build('maxsquare', target_loss='entropi')


def test_guidance_is_the_class_of_the_mean_where_one_level_is_sure():
    probabilities = torch.tensor([[[0.6, 0.4], [0.9, 0.1], [0.5, 0.5]], [[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]]])
    main, low = probabilities.log().transpose(1, 2)[:, None, ..., None]
    assert guidance(main, low, 0.85).flatten().tolist() == [1, 0, 255]


def test_no_sure_pixel_gives_a_finite_loss():
    model = build('maxsquare', threshold=1.0)
    _, losses = losses_of(model)
    assert losses['target.aux_0.loss_ce'] == 0
    assert gradients(model, model.parse_losses(losses)[0]).keys() == {n for n, _ in model.named_parameters()}


def test_losses_of_style_layers_are_those_of_the_source():
    snr = {'type': 'snr', 'reduction': 2, 'num_classes': 4, 'dense': True, 'sites': 'stage2'}
    model, plain = build('maxsquare', style=snr), build(style=snr)
    plain.load_state_dict(model.state_dict(), strict=False)
    _, losses = losses_of(model)
    _, expected = losses_of(plain)
    for name in ('style.snr.stage2', 'style.snr.stage2.ce'):
        torch.testing.assert_close(losses[name], expected[name])
    assert all(layer.aux is None and layer.logits is None for _, layer in style_layers(model))


# --- FADA


def authors_gradients(model, data):
    """Segmentation, adversarial and discriminator losses in backward passes of their own, in the authors' order."""
    source, target = data['inputs'], data['target']['inputs']

    def up(x, like):
        return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=True)

    model.zero_grad()
    f_s = model.backbone(source)[-1]
    z_s = up(model.decode_head([f_s] * 4), source) / 1.8
    labels = torch.cat([sample.gt_sem_seg.data for sample in data['data_samples']])
    (F.cross_entropy(z_s, labels, ignore_index=255, reduction='sum') / labels.numel()).backward()
    f_t = model.backbone(target)[-1]
    t_s, t_t = (soft_labels(z, 0.9) for z in (z_s, up(model.decode_head([f_t] * 4), target) / 1.8))
    (0.001 * domain_loss(up(model.discriminator(f_t), target), t_t, 0)).backward()
    model.discriminator.zero_grad()
    (0.5 * domain_loss(up(model.discriminator(f_s.detach()), source), t_s, 0)).backward()
    (0.5 * domain_loss(up(model.discriminator(f_t.detach()), target), t_t, 1)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_one_backward_pass_gives_the_gradients_of_the_authors_four():
    model = build('fada', style=None)
    data, losses = losses_of(model)
    names = ['decode.loss_ce', 'adversarial.loss_target', 'discriminator.loss_source', 'discriminator.loss_target']
    assert [name for name in losses if 'loss' in name] == names
    actual = gradients(model, model.parse_losses(losses)[0])
    assert_equal_gradients(actual, authors_gradients(model, data))


def test_padain_gives_source_features_the_styles_of_the_target_and_leaves_the_targets_own_pass_alone():
    model = build('fada', style={'type': 'padain', 'p': 1.0, 'mode': 'source_target'})
    seen = []
    model.discriminator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    data, _ = losses_of(model, count=3)  # an odd batch
    _, f_s, f_t = seen
    source, target = data['inputs'], data['target']['inputs']
    rows, columns = (torch.arange(n) * m // n for n, m in zip(source.shape[2:], target.shape[2:], strict=True))
    resized = target[..., rows[:, None], columns]  # the nearest pixel
    torch.testing.assert_close(f_s, model.backbone(torch.cat([source, resized]))[-1][:3])
    plain = build('fada', style=None)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(f_t, plain.backbone(target)[-1])
    assert not torch.allclose(f_s, plain.backbone(source)[-1], atol=1e-3)


def test_labels_of_the_source_reach_style_layers_that_saw_the_target_too():
    snr = {'type': 'snr', 'reduction': 2, 'num_classes': 4, 'dense': True, 'sites': 'stage2'}
    model = build('fada', style=[{'type': 'padain', 'p': 1.0, 'mode': 'source_target'}, snr])
    _, losses = losses_of(model)
    assert losses['style.snr.stage2.ce'].isfinite()


@pytest.mark.parametrize('wrong', [{'temperature': 0.0}, {'cap': 0.0}, {'cap': 1.8}], ids=str)
def test_a_temperature_or_cap_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match='FADA: expected temperature > 0 and 0 < cap <= 1'):
        build('fada', **wrong)


def test_a_recipe_is_refused():
    with pytest.raises(ValueError, match='does not go with `recipe`'):
        build('fada', recipe='advbn')


@pytest.mark.parametrize('kind', KINDS)
def test_checkpoints_have_the_keys_of_the_plain_segmentor(kind):
    model = build(kind)
    plain = build(auxiliary_head=KINDS[kind].get('auxiliary_head'))
    own = {key for key in model.state_dict() if not key.startswith('discriminator.')}
    assert own == set(plain.state_dict())
    image = torch.randint(0, 256, (3, 16, 32), dtype=torch.uint8)
    plain.load_state_dict(model.state_dict(), strict=False)
    predictions = []
    for net in (model.eval(), plain.eval()):
        sample = batch()['target']['data_samples'][0]
        sample.set_metainfo({'img_shape': (16, 32), 'ori_shape': (16, 32)})
        predictions.append(net.test_step({'inputs': [image], 'data_samples': [sample]})[0].seg_logits.data)
    assert torch.equal(*predictions)


def test_soft_cross_entropy_counts_pixels_with_a_label():
    logits = torch.randn(2, 3, 4, 5)
    labels = F.one_hot(torch.randint(0, 3, (2, 4, 5)), 3).movedim(3, 1).float()
    hard = labels.argmax(1)
    labels[0, :, 0], hard[0, 0] = 0, 255
    torch.testing.assert_close(soft_cross_entropy(logits, labels), F.cross_entropy(logits, hard, ignore_index=255))
    assert soft_cross_entropy(logits, torch.zeros_like(labels)) == 0


def test_maxsquare_refuses_the_mode_of_padain_that_belongs_to_fada():
    with pytest.raises(ValueError, match="'source_target' belongs to FADA"):
        build('maxsquare', style=KINDS['fada']['style'])
