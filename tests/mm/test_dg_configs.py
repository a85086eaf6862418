"""Every segmentation config but those that adapt (test_uda_configs.py) trains a step on data in its own layout; the
protocol of domain generalisation."""

import numpy as np
import pytest
import torch
from expected import LONELY

pytest.importorskip('mmseg')
import adabn as adabn_tool
import test as test_tool
from bench.arguments import TOY_STREETS, words
from bench.names import TRAINED
from cli import load_config, parser
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmseg.registry import DATA_SAMPLERS, DATASETS, MODELS
from test_configs import DATA, EXAMPLES, QUICK, SEGMENTATION, method_of, narrow_model, write_streets
from test_datasets_streets import make, write

from timm_stylenorm import style_layers
from timm_stylenorm.runner import adabn, distributed
from timm_stylenorm.runner.configs import config_root

pytestmark = LONELY

BACKBONES = {'r50-d16': 16, 'r101-d8': 8}  # output strides
DG = [
    f'segmentation/deeplabv3plus_{backbone}_{method}4xb4-40k_gtav2domains-768x768.py'
    for backbone in BACKBONES
    for method in ('', 'isw_')
]
SMALL = {
    'Resize': {'scale': (64, 32)},
    'RandomResize': {'scale': (64, 32)},
    'RandomCrop': {'crop_size': (32, 48)},
    'RandomScaleCrop': {'crop_size': (32, 48)},
}
STATISTICS = {'running_mean', 'running_var', 'num_batches_tracked'}


def write_data_sets(root):
    """A few pictures of every data set that the configs name."""
    write_streets(root / 'data')
    write_streets(root / 'data/toy_streets')
    for layout in ('bdd100k', 'mapillary'):
        make(root / 'data' / layout, layout)
    return root


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data_sets(tmp_path_factory.mktemp('data_sets'))


def narrow(cfg):
    """The config with few channels and small crops."""
    narrow_model(cfg.model, (32, 64))
    for step in cfg.train_dataloader.dataset.pipeline:
        step.update(SMALL.get(step.type, {}))
    return cfg


def build(cfg):
    init_default_scope('mmseg')
    return MODELS.build(cfg.model).train()


# the examples differ from their baseline by the style alone, as the small baseline with each method on top
STEPS = [pytest.param(name, [], marks=pytest.mark.slow if name in EXAMPLES else ()) for name in SEGMENTATION]
STEPS += [pytest.param(QUICK, words(method, TOY_STREETS), id=method) for method in TRAINED]


@pytest.mark.parametrize(('name', 'style'), STEPS)
@pytest.mark.some(6)
def test_config_trains_a_step_on_data_in_its_layout(name, style, data, monkeypatch):
    monkeypatch.chdir(data)
    cfg = narrow(load_config(parser('').parse_args([name, *style])))
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = cfg.train_dataloader.sampler
    if 'tile' in sampler:
        sampler.tile = 16  # the pictures are smaller
    drawn = iter(DATA_SAMPLERS.build(sampler, default_args={'dataset': dataset, 'seed': 0}))
    batch = model.data_preprocessor(pseudo_collate([dataset[next(drawn)], dataset[next(drawn)]]), training=True)
    losses = model(**batch, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    wrapper.step()
    assert all(p.isfinite().all() for p in model.parameters())

    method = style[1] if style else method_of(name)
    wanted = {'advbn': {'advbn', 'dual_bn'}, 'debiased': {'dual_bn'}, None: set()}.get(method, {method})
    assert {label.split('.')[0] for label, _ in style_layers(model)} == wanted
    assert any(key.startswith('style.') for key in losses) == (method in ('irw', 'snr'))


@pytest.mark.parametrize('name', DATA)
@pytest.mark.some(3)
def test_config_is_tested_with_several_views(name, data, monkeypatch):
    monkeypatch.chdir(data)
    cfg = narrow(Config.fromfile(config_root() / name))
    for step in cfg.tta_pipeline:
        step.update(SMALL.get(step.type, {}))
    init_default_scope('mmseg')
    model = MODELS.build({**cfg.tta_model, 'module': cfg.model}).eval()
    dataset = {key: value for key, value in cfg.val_dataloader.dataset.items() if key != 'complete'}
    item = DATASETS.build({**dataset, 'pipeline': cfg.tta_pipeline})[0]
    assert len(item['inputs']) > 1
    (sample,) = model.test_step(pseudo_collate([item]))
    assert sample.pred_sem_seg.shape[-2:] == sample.gt_sem_seg.shape[-2:]


@pytest.mark.parametrize('name', [name for name in SEGMENTATION if name.startswith('segmentation/')])
@pytest.mark.slow
def test_config_builds_at_full_width(name):
    cfg = Config.fromfile(config_root() / name)
    distributed._sync_bn_to_bn(cfg.model)
    with torch.device('cpu' if method_of(name) == 'isw' else 'meta'):  # ISW reads its mask
        model = build(cfg)
    assert max(p.shape[0] for p in model.backbone.parameters()) == 2048


@pytest.mark.parametrize(('name', 'stride'), list(zip(DG[::2], BACKBONES.values(), strict=True)))
def test_output_stride_is_that_of_the_protocol(name, stride):
    backbone = build(narrow(Config.fromfile(config_root() / name))).eval().backbone
    assert backbone(torch.zeros(1, 3, 64, 64))[-1].shape[-1] == 64 // stride


@pytest.mark.parametrize('name', DG)
def test_generalisation_is_trained_and_tested_by_one_protocol(name):
    cfg = Config.fromfile(config_root() / name)
    assert cfg.model.data_preprocessor.size == (768, 768)
    assert (cfg.train_cfg.max_iters, cfg.train_dataloader.batch_size) == (40000, 4)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
    (schedule,) = cfg.param_scheduler
    assert (schedule.power, schedule.eta_min, schedule.end) == (0.9, 0.0, 40000)
    assert cfg.model.test_cfg == dict(mode='whole')
    assert cfg.test_dataloader.dataset.only == ['cityscapes', 'bdd100k', 'mapillary']
    assert cfg.test_evaluator.means.mean == cfg.test_dataloader.dataset.only


@pytest.fixture
def small(data, tmp_path, monkeypatch, unpainted):
    """Config and checkpoint of a narrow baseline, tested on a few small pictures of three domains."""
    monkeypatch.chdir(data)
    cfg = narrow(Config.fromfile(config_root() / DG[0]))
    for part in cfg.test_dataloader.dataset.domains.values():
        part.complete = False
    for step in cfg.test_dataloader.dataset.domains.mapillary.pipeline:
        step.update({'ResizeHeight': {'height': 32}, 'CenterCrop': {'crop_size': 32}}.get(step.type, {}))
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.log_level = 'ERROR'
    cfg.dump(tmp_path / 'small.py')
    torch.save({'meta': {}, 'state_dict': build(cfg).state_dict()}, tmp_path / 'net.pth')
    return [str(tmp_path / name) for name in ('small.py', 'net.pth')]


def test_one_run_tests_the_unseen_domains(small, tmp_path):
    scores = test_tool.main([*small, '--work-dir', str(tmp_path)])
    assert {'cityscapes/mIoU', 'bdd100k/mIoU', 'mapillary/mIoU', 'mean/mIoU'} <= scores.keys()
    assert len([*tmp_path.glob('*/domains.json')]) == 1


@pytest.mark.parametrize('lacks', [(), ('visualizer', 'vis_backends', 'default_hooks')])
def test_predictions_are_drawn_whatever_the_config_says_of_pictures(small, tmp_path, lacks):
    cfg = Config.fromfile(small[0])
    for key in lacks:
        cfg.pop(key, None)
    path = tmp_path / f'without{len(lacks)}.py'  # of two runs of one name in one second, mmengine takes one visualizer
    cfg.dump(path)
    out = ['--work-dir', str(tmp_path / 'out'), '--show-dir', str(tmp_path / 'drawn')]
    test_tool.main([str(path), small[1], *out])
    drawn = {path.name.partition('.')[0] for path in (tmp_path / 'drawn').rglob('*.png')}
    assert len(drawn) > 5


def test_a_checkpoint_is_adapted_to_one_domain_at_a_time(small, tmp_path):
    line = [*small, '--work-dir', str(tmp_path), '--out', str(tmp_path / 'adapted.pth')]
    with pytest.raises(SystemExit, match=r'3 domains .* --cfg-options test_dataloader\.dataset\.only=bdd100k'):
        adabn_tool.main(line)
    adabn_tool.main([*line, '--cfg-options', 'test_dataloader.dataset.only=bdd100k'])
    before, after = (torch.load(tmp_path / f'{name}.pth')['state_dict'] for name in ('net', 'adapted'))
    assert {key.rpartition('.')[2] for key in before if not before[key].equal(after[key])} == STATISTICS


def test_test_time_augmentation_adapts_to_every_domain_by_itself(small, tmp_path, monkeypatch):
    flips = [[dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)], [dict(type='LoadTrainIds')]]
    flips.append([dict(type='PackSegInputs')])
    views = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=flips)]
    cfg = Config.fromfile(small[0])
    cfg.merge_from_dict({'tta_pipeline': views, 'custom_hooks': [*cfg.custom_hooks, {'type': 'AdaBNHook'}]})
    cfg.dump(small[0])
    adapt, images = adabn.adapt_model, []

    def spy(model, loader, **options):
        images.append(len(loader.sampler))
        return adapt(model, loader, **options)

    monkeypatch.setattr(adabn, 'adapt_model', spy)
    test_tool.main([*small, '--work-dir', str(tmp_path / 'out'), '--tta'])
    assert images == [4, 3, 3]


REIN = '_base_/datasets/gtav2domains_512x512.py'
REIN_SHOWN = {  # domain: image on disk, what the network sees, what is scored; height and width
    'cityscapes': ((64, 128), (512, 1024), (64, 128)),
    'bdd100k': ((72, 128), (720, 1280), (72, 128)),
    'mapillary': ((90, 120), (512, 683), (45, 60)),
}


def test_reins_protocol_shows_and_scores_images_at_its_sizes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmseg')
    cfg = Config.fromfile(config_root() / REIN)
    rng = np.random.default_rng(0)
    for name, (size, _, _) in REIN_SHOWN.items():
        part = cfg.test_dataloader.dataset.domains[name]
        part.complete = False
        ((image, label),) = make(tmp_path / part.data_root, part.layout, count=1)
        write(image, rng.integers(0, 256, (*size, 3), np.uint8))
        write(label, rng.integers(0, 19, size, np.uint8))
    found = {item['domain']: item for item in DATASETS.build(cfg.test_dataloader.dataset)}
    assert list(found) == cfg.test_dataloader.dataset.only
    for name, (_, shown, scored) in REIN_SHOWN.items():
        sample = found[name]['data_samples']
        assert found[name]['inputs'].shape[1:] == shown, name
        assert sample.ori_shape == scored == sample.gt_sem_seg.shape, name


def test_reins_protocol_trains_on_all_images_in_crops_of_512(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmseg')
    cfg = Config.fromfile(config_root() / REIN).train_dataloader
    make(tmp_path / 'data/gta5', 'gta5', count=3)
    (tmp_path / 'data/gta5/splits').mkdir()
    (tmp_path / 'data/gta5/splits/train.txt').write_text('00001\n')
    dataset = DATASETS.build(cfg.dataset)
    assert len(dataset) == 3
    assert max(dataset[k % 3]['inputs'].shape[1] for k in range(9)) == 512
    assert cfg.batch_size == 4
    assert DATA_SAMPLERS.build(cfg.sampler, default_args={'dataset': dataset, 'seed': 0}).shuffle
