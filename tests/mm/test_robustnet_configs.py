"""Domain generalisation as RobustNet's authors ran it: what networks, data sets and losses of the configs really do."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from expected import LONELY

pytest.importorskip('mmseg')
from cli import load_config, parser
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import HOOKS, init_default_scope
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from test_dg_configs import DG, build, narrow, write_data_sets
from torch.utils.data import DataLoader

from mmseg_stylenorm.weights import load_from_csail
from timm_stylenorm import style_layers, style_losses
from timm_stylenorm.runner import distributed
from timm_stylenorm.runner.configs import config_root

pytestmark = LONELY

DEEPLABV2 = 'segmentation/deeplabv2_r101-d8_4xb2-20k_gtav2cityscapes-1280x720.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data_sets(tmp_path_factory.mktemp('data_sets'))


def built(name, *options):
    """The network of a config as wide as it is, without memory for its weights."""
    cfg = load_config(parser('').parse_args([name, *options]))
    distributed._sync_bn_to_bn(cfg.model)
    cfg.model.pretrained = None
    with torch.device('meta'):
        return build(cfg)


@pytest.mark.parametrize(('name', 'dilated'), [(DG[0], {4: 2}), (DG[2], {3: 2, 4: 4})])
def test_all_blocks_of_a_stage_are_dilated_alike(name, dilated):
    """RobustNet, network/deepv3.py: the stride of the first block is on its 3x3 convolution, or taken from it."""
    backbone = built(name).backbone
    for stage in range(1, 5):
        blocks = list(getattr(backbone, f'layer{stage}'))
        assert {block.conv2.dilation for block in blocks} == {(dilated.get(stage, 1),) * 2}
        stride = 1 if stage == 1 or stage in dilated else 2
        assert [block.conv2.stride for block in blocks] == [(stride, stride), *[(1, 1)] * (len(blocks) - 1)]
        assert blocks[0].conv1.stride == (1, 1)


def test_the_deep_stem_has_the_channels_of_the_weights_it_starts_from():
    backbone = built(DG[2]).backbone
    convs = [m for m in backbone.stem if isinstance(m, torch.nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.stride) for conv in convs] == [
        (3, 64, (2, 2)), (64, 64, (1, 1)), (64, 128, (1, 1)),
    ]  # fmt: skip
    assert backbone.layer1[0].conv1.in_channels == 128


def test_weights_of_csail_reach_every_parameter_of_the_deep_stem(monkeypatch):
    """Under the names of the authors' ResNet: conv1 bn1 ... conv3 bn3, layer1 ..., fc."""
    backbone = {'type': 'ResNetV1c', 'depth': 50, 'base_channels': 4, 'stem_channels': 8, 'norm_cfg': {'type': 'BN'}}
    names = {'0': 'conv1', '1': 'bn1', '3': 'conv2', '4': 'bn2', '6': 'conv3', '7': 'bn3'}
    theirs = {'fc.weight': torch.zeros(2, 2)}
    for key, value in MODELS.build(backbone).state_dict().items():
        stem, _, rest = key.removeprefix('stem.').partition('.')
        theirs[f'{names[stem]}.{rest}' if key.startswith('stem.') else key] = torch.rand_like(value.float())
    asked = []
    monkeypatch.setattr('mmengine.runner.checkpoint.load_url', lambda url, **_: asked.append(url) or dict(theirs))
    net = MODELS.build({**backbone, 'init_cfg': {'type': 'Pretrained', 'checkpoint': 'csail://resnet101'}})
    net.init_weights()
    assert asked == ['http://sceneparsing.csail.mit.edu/model/pretrained_resnet/resnet101-imagenet.pth']
    own = {key: value for key, value in net.state_dict().items() if not key.endswith('num_batches_tracked')}
    assert own['stem.6.weight'].equal(theirs['conv3.weight'])
    assert own['stem.4.running_var'].equal(theirs['bn2.running_var'])
    counts = ('num_batches_tracked', 'fc.weight')
    left = {value.sum().item() for key, value in theirs.items() if not key.endswith(counts)}
    assert {value.sum().item() for value in own.values()} == left
    with pytest.raises(ValueError, match="unknown network 'resnet18'"):
        load_from_csail('csail://resnet18')


TWO_NORMS = "sites=['stem.1','stem.4','stage1.sum','stage2.sum']"
ROBUSTNET = [  # config, --style, how many instance norms, whether these have an affine map, the loss' weight and margin
    (DG[0], [], 0, False, None),
    (DG[0], ['ibn_b'], 3, True, None),
    (DG[0], ['irw', 'relax=0', 'loss_weight=0.8'], 3, False, (0.8, 0)),
    (DG[0], ['irw'], 3, False, (0.6, 64)),
    (DG[1], [], 3, False, None),
    (DG[2], [], 0, False, None),
    (DG[2], ['ibn_b', TWO_NORMS], 4, True, None),
    (DG[3], [], 4, False, None),
]


def expected_whitening(x, weight, relax):
    """The authors' loss of one of three layers, in plain steps (network/instance_whitening.py, cov_settings.py)."""
    flat = torch.nn.functional.instance_norm(x).flatten(2)
    pairs = [(i, j) for i in range(x.shape[1]) for j in range(i)]
    margin = len(pairs) // relax if relax else 0
    per_image = [sum(abs((f[i] @ f[j]).item()) for i, j in pairs) / (flat.shape[2] - 1) for f in flat]
    return weight / 3 * sum(max(0, total - margin) / len(pairs) for total in per_image) / len(flat)


@pytest.mark.parametrize(('name', 'style', 'count', 'affine', 'loss'), ROBUSTNET)
def test_the_rows_of_the_paper_have_the_instance_norms_and_losses_of_the_authors(name, style, count, affine, loss):
    header = (config_root() / name).read_text().partition('\n_base_ =')[0]
    said = ' '.join(f'"{word}"' if "'" in word else word for word in style)
    assert not style or f'  --style {said}\n' in header
    model = build(narrow(load_config(parser('').parse_args([name, *(['--style', *style] if style else [])]))))
    seen = []
    for label, layer in style_layers(model):
        layer.register_forward_hook(lambda layer, x, _, label=label: seen.append((label, layer, x[0].detach())))
    model.backbone(torch.rand(2, 3, 64, 64))
    stem = {0: [], 3: ['stem.norm'], 4: ['stem.1', 'stem.4']}[count]
    assert [label.partition('.')[2] for label, *_ in seen] == (stem and [*stem, 'stage1.sum', 'stage2.sum'])
    assert all(bool(list(layer.parameters())) == affine for _, layer, _ in seen)
    losses = list(style_losses(model).values())
    assert len(losses) == (count if loss else 0)
    for (_, _, x), value in zip(seen, losses, strict=False):
        assert value.item() == pytest.approx(expected_whitening(x, *loss), rel=1e-3)


def test_isw_chooses_from_whole_images(data, monkeypatch):
    """What the network sees while it chooses: a picture as it is on disk and its view, whatever the crops are."""
    monkeypatch.chdir(data)
    cfg = narrow(Config.fromfile(config_root() / DG[1]))
    model, dataset = build(cfg), DATASETS.build(cfg.train_dataloader.dataset)
    hook = HOOKS.build(cfg.custom_hooks[-1])
    assert (hook.begin, hook.images, hook.trials) == (4644, 500, 10)
    hook.trials, seen = 2, []
    monkeypatch.setattr(model, 'extract_feat', lambda x, run=model.extract_feat: seen.append(x) or run(x))
    loader = DataLoader(dataset, 4, collate_fn=pseudo_collate)
    hook.before_train_iter(SimpleNamespace(iter=hook.begin, model=model, train_dataloader=loader), 0)
    assert len(seen) == 2 * len(dataset)
    files = [dataset.get_data_info(k)['img_path'] for k in range(len(dataset))]
    on_disk = [torch.from_numpy(cv2.imread(file)[..., ::-1].copy()).permute(2, 0, 1).float() for file in files]
    shown = []
    for view, image in seen:
        pixels = (image * model.data_preprocessor.std + model.data_preprocessor.mean).round()
        (which,) = [k for k, known in enumerate(on_disk) if known.shape == pixels.shape and known.equal(pixels)]
        assert not view.equal(image)
        shown.append(which)
    count = len(dataset)
    assert sorted(shown[:count]) == sorted(shown[count:]) == list(range(count))
    assert all(layer.chosen for _, layer in style_layers(model))


def test_generalisation_is_trained_on_the_official_split_where_it_is_listed(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data / 'data/gta5', 'data/gta5')
    part = Config.fromfile(config_root() / DG[0]).train_dataloader.dataset
    Path('data/gta5/splits/train.txt').write_text('00001.png\n3.png\n'.replace('00001', '1'))
    listed = DATASETS.build(part)
    assert [Path(listed.get_data_info(k)['img_path']).stem for k in range(len(listed))] == ['1', '3']
    Path('data/gta5/splits/train.txt').unlink()
    said = []
    monkeypatch.setattr('mmseg_stylenorm.datasets.streets.print_log', lambda text, *_: said.append(text))
    assert len(DATASETS.build(part)) == 4
    assert any('all 4 images are taken' in text for text in said)


def test_training_images_are_jittered_in_half_of_the_draws_and_always_blurred():
    """A picture of one colour, with a white column: only jitter changes the colour, only blur the column."""
    cfg = Config.fromfile(config_root() / DG[0])
    init_default_scope('mmseg')
    steps = {step.type: TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline[2:-1]}
    assert list(steps) == ['RandomScaleCrop', 'RandomFlip', 'ColorJitter', 'RandomGaussianBlur']
    image = np.full((32, 32, 3), (60, 120, 180), np.uint8)
    jittered = sum(not np.array_equal(steps['ColorJitter']({'img': image})['img'], image) for _ in range(400))
    assert 160 < jittered < 240
    image[:, 16] = 255
    blurred = [steps['RandomGaussianBlur']({'img': image.copy()})['img'] for _ in range(50)]
    # a deviation below 0.3 changes no byte
    assert sum(not np.array_equal(picture, image) for picture in blurred) >= 40
    crops = {steps['RandomScaleCrop']({'img': np.zeros((1052, 1914, 3), np.uint8)})['img'].shape for _ in range(3)}
    assert crops == {(768, 768, 3)}


@pytest.mark.parametrize('style', ['mixstyle', 'efdmix', 'dsu'])
@pytest.mark.parametrize('name', [DG[0], DEEPLABV2])
@pytest.mark.some(2)
def test_statistics_are_disturbed_where_the_authors_disturb_them(name, style):
    """MixStyle and EFDMix after the first two stages, DSU in six places; each in half of the steps by itself."""
    cfg = narrow(load_config(parser('').parse_args([name, '--style', style])))
    model = build(cfg)
    layers = dict(style_layers(model))
    six = ['stem.conv', 'stem.pool', 'stage1', 'stage2', 'stage3', 'stage4']
    assert list(layers) == [f'{style}.{place}' for place in (six if style == 'dsu' else six[2:4])]
    acted = dict.fromkeys(layers, 0)
    for label, layer in layers.items():
        x = torch.rand(4, 8, 6, 6)
        acted[label] = sum(not layer(x).equal(x) for _ in range(200))
    assert all(70 < count < 130 for count in acted.values()), acted
