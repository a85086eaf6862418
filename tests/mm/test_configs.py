"""What holds of every shipped config without data; mmseg's own tools take ours. test_dg_configs.py trains steps."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
import mmseg.datasets
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

import mmseg_stylenorm
from timm_stylenorm import style_layers
from timm_stylenorm.methods import ROWS as METHODS
from timm_stylenorm.runner import distributed
from timm_stylenorm.runner.configs import config_root, list_configs


def method_of(name):
    """The method in a config's name; None of a baseline."""
    return next((method for method in METHODS if f'_{method}_' in name), None)


ADAPTING = re.compile('deeplabv2|maxsquare|minent|fada')  # see test_uda_configs.py
SEGMENTATION = [n for n in list_configs() if not (n.startswith('classification/') or ADAPTING.search(n))]
DATA = [name for name in SEGMENTATION if method_of(name) in (None, 'isw')]  # the others change the style only
EXAMPLES = [
    f'segmentation/deeplabv3plus_r50-d8_{method}_4xb2-40k_gtav2cityscapes-512x1024.py'
    for method in ('advbn', 'padain', 'snr')
]
PATTERNS = [
    'segmentation/deeplabv3plus_r50-d8{}_4xb2-40k_gtav2cityscapes-512x1024.py',
    'quickstart/deeplabv3plus_r18-small{}_1xb8-240_toy-streets.py',
    'classification/resnet18{}_1xb64-500_fashion-mnist.py',
]
QUICK = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
THREE_LINES = """
_base_ = ['mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py']
custom_imports = dict(imports=['mmseg_stylenorm'])
model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', sites=('stage1', 'stage2', 'stage3')))
"""


def narrow_model(model, size):
    """The model of a config with few channels, for images of a size."""
    distributed._sync_bn_to_bn(model)
    model.pretrained = None
    model.data_preprocessor.size = size
    if model.backbone.depth > 18:
        model.backbone.update(depth=50, base_channels=4, stem_channels=4, init_cfg=None)
        for head in filter(None, (model.decode_head, model.get('auxiliary_head'))):
            head.update({key: head[key] // 16 for key in ('in_channels', 'c1_in_channels', 'channels') if key in head})


def one_step(cfg):
    """A training step of the config's model, as narrow as it gets, on random data."""
    init_default_scope('mmseg')
    narrow_model(cfg.model, (64, 64))
    model = MODELS.build(cfg.model).train()
    classes = model.num_classes
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, classes, (1, 64, 64)))) for _ in range(2)]
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)]
    data = model.data_preprocessor({'inputs': images, 'data_samples': samples}, training=True)
    losses = model(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    return model, losses


@pytest.mark.parametrize('pattern', PATTERNS)
def test_isw_chooses_its_pairs_early_in_the_training(pattern):
    cfg = Config.fromfile(config_root() / pattern.format('_isw'))
    (hook,) = [HOOKS.build(hook) for hook in cfg.custom_hooks if hook.type == 'ISWHook']
    assert 0 < hook.begin <= cfg.train_cfg.max_iters / 10


@pytest.mark.parametrize('pattern', PATTERNS)
def test_adabn_trains_as_its_baseline_and_adapts_for_the_test(pattern):
    baseline = Config.fromfile(config_root() / pattern.format(''))
    adabn = Config.fromfile(config_root() / pattern.format('_adabn'))
    *others, hook = adabn.custom_hooks
    assert others == baseline.custom_hooks
    assert 'test' in HOOKS.build(hook).on
    for key in ('custom_hooks', 'custom_imports'):
        adabn.pop(key), baseline.pop(key)
    assert adabn.to_dict() == baseline.to_dict()


def changes_the_style_alone(name):
    """Whether a config is another one of ours with a style or a recipe, and nothing else."""
    text = (config_root() / name).read_text()
    base = re.search(r"^_base_ = '(\./.+)'", text, re.MULTILINE)
    if not base:
        return False
    ours, theirs = (Config.fromfile(file) for file in (config_root() / name, (config_root() / name).parent / base[1]))
    for cfg in (ours, theirs):
        for key in ('type', 'style', 'recipe'):
            cfg.model.pop(key, None)
    return ours.to_dict() == theirs.to_dict()


def test_a_config_says_more_than_a_style_on_the_command_line_would():
    """But for three examples of how a config of one's own adds a method."""
    assert [name for name in list_configs() if changes_the_style_alone(name)] == EXAMPLES


@pytest.mark.parametrize('name', DATA)
def test_config_names_registered_data_sets_and_resumes_exactly(name):
    init_default_scope('mmseg')
    cfg = Config.fromfile(config_root() / name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert DATASETS.get(loader.dataset.type) is not None
    assert {'RNGStateHook', 'CheckpointGuardHook'} <= {hook.type for hook in cfg.custom_hooks}
    assert cfg.randomness.seed is not None


@pytest.mark.parametrize('name', DATA)
def test_labels_that_a_config_trains_on_are_checked_and_in_the_default_folders(name):
    init_default_scope('mmseg')
    part = Config.fromfile(config_root() / name).train_dataloader.dataset
    steps = [step.type for step in part.pipeline]
    assert 'LoadTrainIds' in steps
    assert 'LoadAnnotations' not in steps
    dataset = DATASETS.build({**part, 'lazy_init': True})
    assert dataset.data_prefix['seg_map_path'] == f'{part.data_root}/labels'


def test_the_gta5_pipeline_is_mmsegs_for_cityscapes_with_checked_labels():
    theirs = Config.fromfile(Path(mmseg.__file__).parent / '.mim/configs/_base_/datasets/cityscapes.py')
    theirs = theirs.train_dataloader.dataset.pipeline
    assert theirs[1].pop('type') == 'LoadAnnotations'
    ours = Config.fromfile(config_root() / 'segmentation/deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py')
    assert ours.train_dataloader.dataset.pipeline == [theirs[0], {'type': 'LoadTrainIds'}, *theirs[2:]]


def test_three_lines_on_top_of_a_shipped_config_train_a_step(tmp_path):
    (tmp_path / 'mine.py').write_text(THREE_LINES)
    model, _ = one_step(Config.fromfile(tmp_path / 'mine.py'))
    assert [label for label, _ in style_layers(model)] == ['snr.stage1', 'snr.stage2', 'snr.stage3']


def write_streets(root, count=4):
    """A few random pictures in both layouts."""
    rng = np.random.default_rng(0)
    folders = ['gta5/images', 'gta5/labels', 'gta5/splits', 'cityscapes/leftImg8bit/val/t', 'cityscapes/gtFine/val/t']
    for folder in folders:
        (root / folder).mkdir(parents=True)
    for k in range(count):
        image, label = rng.integers(0, 256, (64, 128, 3), np.uint8), rng.integers(0, 19, (64, 128), np.uint8)
        cv2.imwrite(str(root / f'gta5/images/{k}.png'), image)
        cv2.imwrite(str(root / f'gta5/labels/{k}_labelTrainIds.png'), label)
        cv2.imwrite(str(root / f'cityscapes/leftImg8bit/val/t/{k}_leftImg8bit.png'), image)
        cv2.imwrite(str(root / f'cityscapes/gtFine/val/t/{k}_gtFine_labelTrainIds.png'), label)
    for split in ('train', 'val'):
        (root / f'gta5/splits/{split}.txt').write_text(''.join(f'{k}\n' for k in range(count)))


TINY = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2']
TINY += ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0']
TINY += ['val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0']
TINY += ['test_dataloader.persistent_workers=False', 'model.data_preprocessor.size=(64,64)']
TINY += ['train_dataloader.dataset.pipeline.2.scale=(128,64)', 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)']


@pytest.fixture
def streets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', str(Path(mmseg_stylenorm.__file__).parent.parent))
    write_streets(tmp_path / 'data/toy_streets')
    return tmp_path


@pytest.mark.slow
def test_our_tools_train_resume_test_and_adapt(streets):
    tools = Path(__file__).parents[2] / 'tools'
    snr = ['--style', 'snr', 'reduction=8']
    train = [sys.executable, str(tools / 'train.py'), QUICK, *snr, '--work-dir', 'run', '--resume', '--amp']
    test = [sys.executable, str(tools / 'test.py'), QUICK, 'run/iter_2.pth', '--work-dir', 'test']
    adapt = [sys.executable, str(tools / 'adabn.py'), *test[2:4], *snr, '--work-dir', 'adapt', '--out', 'adapted.pth']
    adapted = [*test[:2], f'run/{Path(QUICK).name}', 'adapted.pth', *test[4:]]  # the style is in the config of the run
    for command in (train, [*test, *snr], [*adapt, '--test'], adapted):
        done = subprocess.run([*command, '--cfg-options', *TINY], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert 'mIoU' in done.stdout
    refused = subprocess.run([*test, '--cfg-options', *TINY], capture_output=True, text=True, timeout=300)
    assert refused.returncode != 0
    assert 'another architecture' in refused.stderr


@pytest.mark.slow
def test_mmsegs_own_train_script_trains_our_configs_once_the_plugin_is_imported(streets, monkeypatch):
    script = Path(sys.modules['mmseg'].__file__).parent / '.mim/tools/train.py'
    argv = [
        'train.py',
        str(config_root() / QUICK.replace('_1xb', '_isw_1xb')),
        '--work-dir',
        str(streets / 'run'),
        '--cfg-options',
        *TINY,
    ]
    monkeypatch.setattr(sys, 'argv', argv)
    monkeypatch.setitem(os.environ, 'LOCAL_RANK', '0')
    runpy.run_path(str(script), run_name='__main__')
    assert (streets / 'run/iter_2.pth').is_file()
