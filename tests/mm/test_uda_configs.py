"""Every config of DeepLabV2 and of adaptation trains a step on generated data in its own layout."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
import cli
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS

import mmseg_stylenorm  # noqa: F401 (finds mmseg's base configs)
from mmseg_stylenorm.uda.pseudo_labels import write_soft
from timm_stylenorm import style_layers
from timm_stylenorm.runner import distributed
from timm_stylenorm.runner.configs import config_root, list_configs

NAMES = [name for name in list_configs() if re.search('deeplabv2|maxsquare|minent|fada', name)]
ADAPTING = [name for name in NAMES if re.search('maxsquare|minent|fada', name) and 'distill' not in name]
SMALL = {'Resize': {'scale': (64, 32)}, 'RandomResize': {'scale': (64, 32)}, 'RandomCrop': {'crop_size': (24, 48)}}


def write_pictures(root, count=2):
    """Random pictures in the layouts of GTA5, SYNTHIA, Cityscapes and NTHU, and labels that a network could write."""
    rng = np.random.default_rng(0)

    def write(path, *shape, high):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, high, shape, np.uint8))

    def write_pair(image, label):
        write(root / image, 32, 64, 3, high=256)
        if label:
            write(root / label, 32, 64, high=19)

    for k in range(count):
        write_pair(f'gta5/images/{k}.png', f'gta5/labels/{k}_labelTrainIds.png')
        write_pair(f'synthia/RGB/{k}.png', f'synthia/GT/LABELS/{k}_labelTrainIds.png')
        for split in ('train', 'val'):
            image, label = (
                f'leftImg8bit/{split}/t/{k}_leftImg8bit.png',
                f'gtFine/{split}/t/{k}_gtFine_labelTrainIds.png',
            )
            write_pair(f'cityscapes/{image}', f'cityscapes/{label}')
        write_pair(f'nthu/Rome/Images/Train/{k}.png', None)
        write_pair(f'nthu/Rome/Images/Test/{k}.png', f'nthu/Rome/Labels/Test/{k}_labelTrainIds.png')
        for stage in ('fada', 'fada-padain', 'fada-synthia'):
            write(root / f'cityscapes/pseudo_labels/{stage}/t/{k}_pseudo.png', 32, 64, high=19)
        soft = root / f'cityscapes/pseudo_labels/fada-soft/t/{k}_soft.npz'
        soft.parent.mkdir(parents=True, exist_ok=True)
        write_soft(soft, torch.rand(19, 8, 16).softmax(0))
    (root / 'gta5/splits').mkdir()
    (root / 'gta5/splits/train.txt').write_text(''.join(f'{k}\n' for k in range(count)))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp('pictures')
    write_pictures(root / 'data')
    write_pictures(root / 'data/toy_streets')
    return root


def narrow(cfg):
    """The config with small pictures and few channels."""
    distributed._sync_bn_to_bn(cfg.model)
    data = cfg.train_dataloader.dataset
    pipelines = [part.pipeline for part in (data, data.get('source'), data.get('target')) if 'pipeline' in (part or {})]
    pipelines += [cfg.val_dataloader.dataset.pipeline, cfg.tta_pipeline]
    for step in (step for pipeline in pipelines for step in pipeline):
        step.update(SMALL.get(step.type, {}))
    cfg.model.data_preprocessor.size = (32, 64)
    if 'r101' in cfg.filename:
        cfg.model.backbone.update(base_channels=4, stem_channels=4, depth=50, init_cfg=None)
        for head in (cfg.model.decode_head, cfg.model.get('auxiliary_head') or {}):
            if head:
                head.in_channels //= 16
    return cfg


# large variants of both methods, which the quick start has too
LARGE = [name for name in NAMES if re.search('segmentation/.*(-maxsquare_|-minent|fada-padain|distill.*synthia)', name)]


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in NAMES]
)
@pytest.mark.some(6)
def test_config_trains_every_parameter_on_data_in_its_layout_and_is_tested(name, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    init_default_scope('mmseg')
    cfg = narrow(Config.fromfile(config_root() / name))
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    model = MODELS.build(cfg.model).train()
    data = model.data_preprocessor(next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))), training=True)
    total, _ = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert total.isfinite()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrappers = wrapper.values() if 'fada_' in name or 'fada-padain_' in name else [wrapper]
    held = [p for w in wrappers for group in w.optimizer.param_groups for p in group['params']]
    assert len(held) == len(set(held))
    assert {p for p in model.parameters() if p.requires_grad} <= set(held)
    views = MODELS.build({**cfg.tta_model, 'module': cfg.model}).eval()
    views.module.load_state_dict(model.state_dict())
    for tested, pipeline in ((model.eval(), cfg.val_dataloader.dataset.pipeline), (views, cfg.tta_pipeline)):
        dataset = DATASETS.build({**cfg.val_dataloader.dataset, 'pipeline': pipeline})
        (sample,) = tested.test_step(pseudo_collate([dataset[0]]))
        assert sample.pred_sem_seg.shape[-2:] == sample.gt_sem_seg.shape[-2:] == (32, 64)


@pytest.mark.parametrize('name', NAMES)
def test_heads_learn_ten_times_as_fast_and_runs_resume_exactly(name):
    cfg = Config.fromfile(config_root() / name)
    assert {'RNGStateHook', 'CheckpointGuardHook'} <= {hook.type for hook in cfg.custom_hooks}
    assert cfg.randomness.seed is not None
    if 'deeplabv2' in name:
        assert cfg.optim_wrapper.paramwise_cfg.custom_keys.decode_head.lr_mult == 10
        assert cfg.param_scheduler[0].power == 0.9
        assert cfg.param_scheduler[0].end >= cfg.train_cfg.max_iters


@pytest.mark.parametrize('name', ADAPTING)
@pytest.mark.some(4)
def test_an_adapting_config_starts_from_a_checkpoint_that_another_config_writes(name):
    cfg = Config.fromfile(config_root() / name)
    written, checkpoint = Path(cfg.load_from).parent, Path(cfg.load_from).name
    said = re.search(r'python tools/train\.py (.+)', (config_root() / name).read_text())
    line = said[1].split() if said else [f'{Path(name).parent}/{written.name}.py']
    earlier = cli.load_config(cli.parser('').parse_args(line))
    assert (Path(earlier.work_dir), checkpoint) == (written, f'iter_{earlier.train_cfg.max_iters}.pth')
    init_default_scope('mmseg')
    fresh = {'discriminator', *(['auxiliary_head'] if name.startswith('quickstart') else [])}
    ours, theirs = (MODELS.build(narrow(c).model).state_dict().keys() for c in (cfg, earlier))
    assert {key.split('.')[0] for key in ours - theirs} <= fresh


@pytest.mark.parametrize('name', [name for name in ADAPTING if 'fada-padain' in name])
def test_padain_styles_the_source_by_the_target(name):
    init_default_scope('mmseg')
    cfg = narrow(Config.fromfile(config_root() / name))
    layers = [layer for _, layer in style_layers(MODELS.build(cfg.model))]
    assert len(layers) > 10
    assert {(layer.mode, layer.p) for layer in layers} == {('source_target', 0.01)}


@pytest.mark.parametrize('missing', ['source', 'target'])
def test_a_missing_folder_of_either_domain_is_named_before_training(missing, tmp_path):
    (tmp_path / 'here').mkdir()
    folders = {'source': tmp_path / 'here', 'target': tmp_path / 'here', missing: tmp_path / 'toy_streets'}
    parts = {domain: {'data_root': str(folder)} for domain, folder in folders.items()}
    with pytest.raises(FileNotFoundError, match=r'prepare_toy_streets\.py'):
        cli.check_data({'dataset': {'type': 'UDADataset', **parts}}, 'a.py')
