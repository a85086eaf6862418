"""The classifier, its preprocessor, metric and optimizers in mmengine's Runner."""

import os

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F

pytest.importorskip('mmengine')

from mmengine.optim import build_optim_wrapper
from mmengine.registry import METRICS, MODELS
from nets import THIN

import timm_stylenorm.classification  # noqa: F401 (registers)
from timm_stylenorm.classification import ClsPreprocessor, TopK


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (timm's Mixup draws from it)


def classifier(model='resnet18', **kwargs):
    narrow = THIN if model.startswith('resnet18') else {}
    return MODELS.build({'type': 'StyleNormClassifier', 'model': model, 'num_classes': 4, **narrow, **kwargs})


def batch(n=4, classes=4):
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
    return dict(inputs=images, targets=torch.arange(n) % classes)


def smoothed(targets, classes, smoothing):
    return F.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes


def test_label_smoothing_equals_cross_entropy_with_smoothed_targets():
    model = classifier(label_smoothing=0.2).eval()
    data = model.data_preprocessor(batch(), True)
    expected = F.cross_entropy(model(data['inputs']), smoothed(data['targets'], 4, 0.2))
    torch.testing.assert_close(model(**data, mode='loss')['loss_cls'], expected)


def authors_jsd(logits, labels):
    """What the authors of AugMix, and of pAdaIN with it, compute from the logits of three views."""
    clean, *rest = logits.chunk(3)
    p = [view.softmax(1) for view in (clean, *rest)]
    mixture = (sum(p) / 3).clamp(1e-7, 1).log()
    divergence = sum(F.kl_div(mixture, q, reduction='batchmean') for q in p) / 3
    return F.cross_entropy(clean, labels) + 12 * divergence


def test_aug_splits_trains_with_the_loss_of_the_authors_over_all_views():
    model = classifier(aug_splits=3, style=dict(type='padain', p=1.0)).train()
    views = torch.randint(256, (4, 3, 3, 32, 32), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=views, targets=torch.arange(4), domain=list('abcd')), True)
    flat = torch.cat([views[:, i] for i in range(3)])
    torch.testing.assert_close(data['inputs'], model.data_preprocessor(dict(inputs=flat))['inputs'])
    torch.manual_seed(1)
    loss = model(**data, mode='loss')['loss_cls']
    torch.manual_seed(1)
    torch.testing.assert_close(loss, authors_jsd(model.net(data['inputs']), torch.arange(4)))
    with pytest.raises(ValueError, match='aug_splits=3, and a pass has 4 images'):
        model(**model.data_preprocessor(batch(), True), mode='loss')
    with pytest.raises(ValueError, match='aug_splits 0, or at least 2, got 1'):
        classifier(aug_splits=1)
    mixing = classifier(data_preprocessor=dict(mixup=0.2))
    with pytest.raises(ValueError, match='do not go with several views'):
        mixing.data_preprocessor(dict(inputs=views, targets=torch.arange(4)), True)


def test_without_aug_splits_all_views_have_the_plain_loss():
    model = classifier().eval()
    views = torch.randint(256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=views, targets=torch.arange(4)), True)
    want = F.cross_entropy(model(data['inputs']), torch.arange(4).repeat(2))
    torch.testing.assert_close(model(**data, mode='loss')['loss_cls'], want)


def test_soft_labels_are_taken_as_they_are():
    model = classifier(label_smoothing=0.2).eval()
    inputs, soft = torch.randn(4, 3, 32, 32), torch.rand(4, 4).softmax(1)
    loss = model(inputs, soft, mode='loss')['loss_cls']
    torch.testing.assert_close(loss, -(soft * model(inputs).log_softmax(1)).sum(1).mean())


def test_predictions_carry_scores_label_and_target():
    model = classifier().eval()
    first = model.test_step(batch())[1]
    assert first['scores'].shape == (4,)
    assert first['scores'].sum().item() == pytest.approx(1, abs=1e-6)
    assert first['label'] == first['scores'].argmax().item()
    assert first['target'] == 1
    assert 'target' not in model.test_step(dict(inputs=batch()['inputs']))[0]


@pytest.mark.parametrize('soft', [False, True], ids=['labels', 'probabilities'])
@pytest.mark.parametrize(
    'spec', [dict(style=dict(type='snr', num_classes=4)), dict(style='snr'), dict(model='resnet18_snr')]
)
def test_style_losses_are_logged_by_name_and_counted_in_the_total(soft, spec):
    model = classifier(**spec).train()
    data = model.data_preprocessor(batch(), True)
    targets = smoothed(data['targets'], 4, 0.1) if soft else data['targets']
    losses = model(data['inputs'], targets, mode='loss')
    assert set(losses) == {'loss_cls', *(f'style.snr.{k}' for k in ('stage1', 'stage2', 'stage3', 'stage3.ce'))}
    total, log = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    torch.testing.assert_close(log['loss'], total)


def test_a_styled_timm_name_gives_the_same_losses_as_the_style_key():
    data = batch()
    losses = []
    for spec in (dict(style='snr'), dict(model='resnet18_snr')):
        torch.manual_seed(0)
        model = classifier(**spec)
        losses.append(model(**model.data_preprocessor(data, True), mode='loss'))
    assert losses[0].keys() == losses[1].keys()


def test_methods_compose_in_a_list():
    model = classifier(style=['padain', dict(type='snr', sites=['stage1'])])
    assert any(name.endswith('style.snr') for name, _ in model.named_modules())
    assert any(name.endswith('style.padain') for name, _ in model.named_modules())


def test_inputs_are_normalised_with_the_values_of_the_model():
    model = classifier()
    mean, std = (torch.tensor(timm.get_pretrained_cfg('resnet18').to_dict()[k]).view(3, 1, 1) for k in ('mean', 'std'))
    data = batch()
    expected = (data['inputs'] / 255 - mean) / std
    torch.testing.assert_close(model.data_preprocessor(data)['inputs'], expected)
    floats = dict(data, inputs=data['inputs'] / 255)
    torch.testing.assert_close(model.data_preprocessor(floats)['inputs'], expected)


def test_mixup_mixes_images_and_smoothed_labels_in_training_only():
    data = batch()
    model = classifier(label_smoothing=0.1, data_preprocessor=dict(mixup=0.8, mean=(0.0,) * 3, std=(1.0,) * 3))
    mixed, plain = model.data_preprocessor(data, True), model.data_preprocessor(data, False)
    images, labels = data['inputs'] / 255, smoothed(data['targets'], 4, 0.1)
    torch.testing.assert_close(plain['inputs'], images)
    difference = images - images.flip(0)
    lam = ((mixed['inputs'] - images.flip(0)) * difference).sum() / difference.pow(2).sum()
    assert 0 < lam < 1
    torch.testing.assert_close(mixed['inputs'], lam * images + (1 - lam) * images.flip(0))
    torch.testing.assert_close(mixed['targets'], lam * labels + (1 - lam) * labels.flip(0))
    assert torch.isfinite(model(**mixed, mode='loss')['loss_cls'])


def test_cutmix_pastes_a_box_of_the_mirrored_batch():
    data = batch()
    preprocessor = ClsPreprocessor((0.0,) * 3, (1.0,) * 3, num_classes=4, cutmix=1.0)
    mixed, images = preprocessor(data, True)['inputs'], preprocessor(data)['inputs']
    from_other = (mixed == images.flip(0)) & (mixed != images)
    assert from_other.any()
    assert ((mixed == images) | from_other).all()


def test_erasing_changes_training_images_only():
    preprocessor = ClsPreprocessor(erasing=1.0)
    assert not torch.equal(preprocessor(batch(), True)['inputs'], preprocessor(batch(), False)['inputs'])
    data = batch()
    assert (preprocessor(data, True)['inputs'] == preprocessor(data, False)['inputs']).any()


def test_a_list_of_samples_is_stacked():
    data = batch()
    apart = dict(inputs=list(data['inputs']), targets=data['targets'].tolist())
    torch.testing.assert_close(ClsPreprocessor()(apart)['inputs'], ClsPreprocessor()(data)['inputs'])


def test_mixup_on_an_odd_batch_names_the_cure():
    with pytest.raises(ValueError, match='this one has 3: choose an even batch_size and set drop_last=True'):
        ClsPreprocessor(num_classes=4, mixup=0.2)(batch(3), True)


@pytest.mark.parametrize('training', [True, False])
def test_a_label_out_of_range_is_named(training):
    data = dict(batch(), targets=torch.tensor([0, 4, 9, 4]))
    with pytest.raises(ValueError, match=r'3 of 4 labels of this batch are outside 0\.\.3: \[4, 9\].*num_classes=4'):
        classifier().data_preprocessor(data, training)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(model='resnet18_padian'), "timm has no model 'resnet18_padian'; did you mean resnet18_padain"),
        (dict(style='padian'), "did you mean 'padain'"),
        (dict(style=dict(type='padain', prob=0.1)), "unknown argument of style method 'padain'"),
        (dict(style=dict(type='padain', p=1.5)), '1.5'),
        (dict(label_smoothing=1.0), 'expected 0 <= label_smoothing < 1, got 1.0'),
        (dict(model='mobilenetv3_small_050', small_images=True), 'MobileNetV3 has no stem made of'),
        (dict(model='resnet18_padain', small_images=True), 'carries a style layer already'),
        (dict(data_preprocessor=dict(mixup=1.0, mode='both')), "'batch', 'pair' or 'elem', got 'both'"),
        (dict(data_preprocessor=dict(switch_prob=0.2)), 'switch_prob without mixup or cutmix'),
        (dict(data_preprocessor=dict(mixupp=1.0)), 'mixupp'),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message.replace('(', r'\(')):
        classifier(**arguments)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match="got 'train'"):
        classifier()(torch.randn(1, 3, 32, 32), mode='train')


def test_small_images_keep_their_resolution_up_to_the_first_stage():
    net = classifier(small_images=True).net
    shapes = []
    net.layer1.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[-2:]))
    net(torch.randn(1, 3, 32, 32))
    assert shapes == [(32, 32)]


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'state_dict': {f'module.net.{k}': v for k, v in s.items()}}])
def test_a_plain_checkpoint_loads_into_a_styled_classifier(tmp_path, wrap):
    plain = timm.create_model('resnet18', num_classes=4, **THIN)
    torch.save(wrap(plain.state_dict()), tmp_path / 'plain.pth')
    model = classifier(style='snr', init_checkpoint=str(tmp_path / 'plain.pth'))
    torch.testing.assert_close(model.net.layer4[1].conv2.weight, plain.layer4[1].conv2.weight)
    torch.testing.assert_close(model.net.fc.weight, plain.fc.weight)


def test_a_checkpoint_with_other_classes_loads_all_but_the_head(tmp_path):
    plain = timm.create_model('resnet18', num_classes=7, **THIN)
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    model = classifier(init_checkpoint=str(tmp_path / 'plain.pth'))
    torch.testing.assert_close(model.net.conv1.weight, plain.conv1.weight)
    assert model.net.fc.weight.shape == (4, THIN['channels'][-1])


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    torch.save(timm.create_model('resnet34', num_classes=4, **THIN).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'another architecture than this ResNet.*unknown to the model: layer1\.2'):
        classifier(init_checkpoint=str(tmp_path / 'other.pth'))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ('pwned',)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': Malicious()}, 'bad.pth')
    with pytest.raises(ValueError, match=r'refused to load bad\.pth'):
        classifier(init_checkpoint='bad.pth')
    assert not (tmp_path / 'pwned').exists()


def test_topk_equals_a_plain_loop():
    scores, targets = torch.rand(50, 7).round(decimals=1), torch.randint(7, (50,))
    metric = METRICS.build(dict(type='TopK', topk=(1, 3)))
    metric.process(None, [dict(scores=s, target=int(t)) for s, t in zip(scores, targets, strict=True)])
    result = metric.evaluate(50)
    for k in (1, 3):
        hits = sum(
            int(t) in sorted(range(7), key=lambda c: (-s[c].item(), c))[:k]
            for s, t in zip(scores, targets, strict=True)
        )
        assert result[f'accuracy/top{k}'] == pytest.approx(2 * hits)


def test_topk_reports_each_domain_and_all_of_them():
    metric = TopK(topk=1, prefix='pacs')
    right, wrong = dict(scores=torch.tensor([0.9, 0.1]), target=0), dict(scores=torch.tensor([0.9, 0.1]), target=1)
    metric.process(None, [dict(right, domain='photo'), dict(right, domain='sketch'), dict(wrong, domain='sketch')])
    assert metric.evaluate(3) == pytest.approx(
        {'pacs/top1': 200 / 3, 'pacs/photo/top1': 100, 'pacs/sketch/top1': 50, 'pacs/mean_top1': 75}
    )


def test_topk_says_when_k_exceeds_the_classes():
    with pytest.raises(ValueError, match='top-5 accuracy needs more than the 2 classes'):
        TopK().process(None, [dict(scores=torch.rand(2), target=0)])


def optim_wrapper(model, **optimizer):
    optimizer = {'opt': 'sgd', 'lr': 0.1, 'weight_decay': 1e-2, **optimizer}
    return build_optim_wrapper(model, dict(constructor='TimmOptimWrapperConstructor', optimizer=optimizer))


def test_timm_constructor_decays_neither_biases_nor_norms():
    model = classifier(style='snr')
    optimizer = optim_wrapper(model, momentum=0.8).optimizer
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (1e-2 if parameter.ndim > 1 else 0), name
    assert optimizer.param_groups[0]['momentum'] == 0.8


def test_timm_constructor_lowers_the_learning_rate_towards_the_stem():
    model = classifier(style='snr')
    optimizer = optim_wrapper(model, opt='adamw', layer_decay=0.5).optimizer
    rate = {id(p): g['lr'] for g in optimizer.param_groups for p in g['params']}
    net = model.net
    assert rate[id(net.fc.weight)] == pytest.approx(0.1)
    assert (
        rate[id(net.conv1.weight)] < rate[id(net.layer1[0].conv1.weight)] < rate[id(net.layer4[0].conv1.weight)] < 0.1
    )
    assert not any('lr_scale' in group for group in optimizer.param_groups)


def test_mmengines_own_constructor_works():
    wrapper = build_optim_wrapper(classifier(), dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)))
    assert isinstance(wrapper.optimizer, torch.optim.SGD)


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(paramwise_cfg=dict(norm_decay_mult=0.0), optimizer=dict(opt='sgd')), 'paramwise_cfg'),
        (dict(optimizer=dict(type='SGD', lr=0.1)), "opt='sgd'"),
    ],
)
def test_timm_constructor_names_keys_of_the_other_one(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_optim_wrapper(classifier(), dict(constructor='TimmOptimWrapperConstructor', **cfg))
