"""The recipes of CrossNorm and SelfNorm: every line of options in their headers trains, and what then acts where."""

import re
import shlex

import pytest
import torch
from expected import LONELY
from nets import THIN

pytest.importorskip('mmseg')

from cli import load_config, parser
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmseg.registry import DATASETS
from mmseg.registry import MODELS as SEGMENTORS
from test_configs import write_streets
from test_dg_configs import narrow

from timm_stylenorm import style_layers
from timm_stylenorm.layers import CrossNorm
from timm_stylenorm.runner.configs import config_root

pytestmark = LONELY

IMAGENET = 'classification/resnet50_4xb32-90e_imagenet.py'
IMAGENET_AUGMIX = 'classification/resnet50_augmix_8xb32-90e_imagenet.py'
CIFAR = 'classification/resnet18_1xb128-100e_cifar100.py'
FCN = 'segmentation/fcn_r50-d8_2xb8-80e_gtav2cityscapes-713x713.py'


def lines_of(name):
    """The lines of options in a config's header, without those of mmengine."""
    header = (config_root() / name).read_text().partition('_base_')[0]
    found = re.findall(r'^# .*?(--(?:style|recipe) .*)', header, re.MULTILINE)
    return [shlex.split(line.partition(' --cfg-options')[0]) for line in found if not line.endswith('views=3.')]


def load(name, options):
    return load_config(parser('').parse_args([name, *options]))


def classifier(name, options):
    cfg = load(name, options)
    cfg.model.update(THIN, num_classes=4)
    torch.manual_seed(0)
    return MODELS.build(cfg.model).train(), cfg


def batch(cfg, size=64):
    splits = cfg.model.get('aug_splits')
    shape = (4, splits, 3, size, size) if splits else (4, 3, size, size)
    return dict(inputs=torch.randint(256, shape, dtype=torch.uint8), targets=torch.arange(4))


def acting(model):
    """A list of the layers that have changed what they got, since it was emptied."""
    acted = []
    for label, layer in style_layers(model):
        layer.register_forward_hook(lambda m, a, y, label=label: acted.append(label) if y is not a[0] else None)
    return acted


LINES = [(name, line) for name in (IMAGENET, IMAGENET_AUGMIX, CIFAR) for line in lines_of(name)]


def test_the_headers_have_lines():
    counts = {name: len(lines_of(name)) for name in (IMAGENET, IMAGENET_AUGMIX, CIFAR, FCN)}
    assert counts == {IMAGENET: 4, IMAGENET_AUGMIX: 1, CIFAR: 4, FCN: 3}


@pytest.mark.parametrize(
    ('name', 'options'), LINES, ids=lambda value: ' '.join(value) if isinstance(value, list) else ''
)
@pytest.mark.some(2)
def test_a_line_of_a_header_trains_a_step(name, options):
    if options[0] == '--recipe':  # beside those of CNSN
        options = [*lines_of(name)[2], *options]
    model, cfg = classifier(name, options)
    log = model.train_step(batch(cfg), build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(torch.isfinite(value) for value in log.values())
    methods = {label.partition('.')[0] for label, _ in style_layers(model)}
    assert methods == {word for word in options if word in ('crossnorm', 'selfnorm', 'ibn_b')}


@pytest.mark.slow
def test_imagenets_crossnorm_acts_on_the_images_alone_in_half_of_the_batches():
    model, cfg = classifier(IMAGENET, lines_of(IMAGENET)[2])
    acted, data = acting(model.net), batch(cfg, 32)
    images, counts = model.data_preprocessor(data, training=True), []
    with torch.no_grad():
        for _ in range(60):
            model(**images, mode='loss')
            counts.append(sum(label.startswith('crossnorm') for label in acted))
            assert sum(label.startswith('selfnorm') for label in acted) == 16
            acted.clear()
    assert set(counts) == {0, 1}
    assert 18 <= sum(counts) <= 42
    (layer,) = [layer for _, layer in style_layers(model) if isinstance(layer, CrossNorm)]
    assert layer.attachment.site == 'input'
    assert model.net.layer1[0].act3.style['selfnorm'] is not None, 'before the last activation'


def test_imagenets_consistency_is_of_two_different_crops():
    model, cfg = classifier(IMAGENET, lines_of(IMAGENET)[3])
    (layer,) = [layer for _, layer in style_layers(model) if isinstance(layer, CrossNorm)]
    seen = []
    layer.register_forward_hook(lambda m, a, y: seen.append(y))
    model.net.register_forward_hook(lambda m, a, y: passes.append(len(y)))
    images = model.data_preprocessor(batch(cfg), training=True)
    for _ in range(20):
        passes = []
        losses = model(**images, mode='loss')
        if len(passes) == 3:
            break
        assert passes == [4]
        assert list(losses) == ['loss_cls']
    assert losses.keys() == {'loss_cls', 'crossnorm.loss'}
    assert len(seen) == 2
    assert not torch.equal(*seen)


@pytest.mark.slow
def test_cifars_two_layers_act_in_a_quarter_of_the_steps():
    model, cfg = classifier(CIFAR, lines_of(CIFAR)[2])
    acted, counts = acting(model.net), []
    images = model.data_preprocessor(batch(cfg, 16), training=True)
    with torch.no_grad():
        for _ in range(120):
            model(**images, mode='loss')
            counts.append(sum(label.startswith('crossnorm') for label in acted))
            acted.clear()
    assert set(counts) == {0, 2}
    assert 15 <= counts.count(2) <= 45
    assert len([label for label, _ in style_layers(model) if label.startswith('crossnorm')]) == 8


@pytest.mark.parametrize(
    ('name', 'rates'),
    [
        (IMAGENET, {0: 0.05, 29: 0.05, 30: 0.005, 59: 0.005, 60: 0.0005, 89: 0.0005}),
        (IMAGENET_AUGMIX, {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 89: 0.001}),
        (CIFAR, {0: 0.1, 25: 0.0853554, 50: 0.05, 75: 0.0146454}),
    ],
)
def test_the_rate_is_the_authors_in_each_epoch(name, rates):
    cfg = Config.fromfile(config_root() / name)
    wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)
    spec, steps = dict(cfg.param_scheduler), 1
    if spec.get('convert_to_iter_based'):
        spec['epoch_length'] = steps = 10
    scheduler = PARAM_SCHEDULERS.build(spec, default_args={'optimizer': wrapper})
    for epoch in range(cfg.train_cfg.max_epochs):
        if epoch in rates:
            assert wrapper.param_groups[0]['lr'] == pytest.approx(rates[epoch], rel=1e-4), epoch
        for _ in range(steps):
            scheduler.step()
    assert wrapper.param_groups[0]['nesterov'] == (name == CIFAR)


@pytest.fixture
def streets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_streets(tmp_path / 'data')
    return tmp_path


@pytest.mark.parametrize('options', [[], *lines_of(FCN)], ids=' '.join)
@pytest.mark.some(2)
def test_fcn_trains_a_step_with_the_layers_where_the_authors_have_them(options, streets):
    init_default_scope('mmseg')
    cfg = narrow(load(FCN, options))
    model = SEGMENTORS.build(cfg.model).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {name.partition('.')[0]: group['lr'] for name, group in named_groups(model, wrapper)}
    assert rates == {'backbone': 0.01, 'decode_head': 0.1, 'auxiliary_head': 0.1}
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), training=True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    wrapper.step()
    places = {label: layer.attachment.name for label, layer in style_layers(model)}
    ends = {m for m, place in places.items() if m.startswith('selfnorm') and place.endswith('bn3')}
    blocks = {m for m, place in places.items() if m.startswith('crossnorm') and re.fullmatch(r'layer\d\.\d', place)}
    assert len(ends) == 16 * ('selfnorm' in options)
    assert len(blocks) == 16 * ('crossnorm' in options)
    assert len(places) == len(ends) + len(blocks)
    assert {(layer.choice.count, layer.choice.active, layer.crop) for _, layer in style_layers(model)
            if isinstance(layer, CrossNorm)} <= {(16, 1, 'style')}  # fmt: skip


def named_groups(model, wrapper):
    names = {id(p): name for name, p in model.named_parameters()}
    return [(names[id(p)], group) for group in wrapper.param_groups for p in group['params'] if id(p) in names]
