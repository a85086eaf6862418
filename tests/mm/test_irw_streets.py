"""The loss of instance whitening acts: a training with it leaves smaller covariances on drawn streets."""

import time

import pytest
import torch

pytest.importorskip('mmseg')
import prepare_toy_streets
from cli import load_config, parser
from ends import status_of
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmseg.registry import DATASETS
from test_configs import QUICK

from timm_stylenorm import style_layers

ITERS = 40


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp('streets')
    drawn = [str(root / 'data/toy_streets'), '--train', '40', '--val', '8', '--workers', '1']
    assert status_of(prepare_toy_streets.main, drawn) == 0
    return root


def term_after_training(weight, seed):
    """The loss with weight 1, mean over layers and held-out pictures, as a training of this weight leaves it."""
    changed = [f'randomness.seed={seed}', f'train_cfg.max_iters={ITERS}', f'train_cfg.val_interval={2 * ITERS}']
    changed += [f'param_scheduler.1.end={ITERS}', 'train_dataloader.num_workers=0']
    changed += ['train_dataloader.persistent_workers=False', 'train_dataloader.batch_size=4']
    line = [QUICK, '--style', 'irw', f'loss_weight={weight}', '--work-dir', f'{weight}-{seed}']
    line += ['--cfg-options', *changed]
    cfg = load_config(parser('').parse_args(line))
    cfg.experiment_name, cfg.log_level = f'irw-{time.time_ns()}', 'WARNING'
    runner = Runner.from_cfg(cfg)
    runner.train()
    model, pictures = runner.model.eval(), DATASETS.build(cfg.seen_dataset)
    layers = [layer for _, layer in style_layers(model)]
    for layer in layers:
        layer.loss_weight, layer.share, layer.training = 1.0, 1.0, True
    terms = []
    for k in range(len(pictures)):
        with torch.no_grad():
            model(**model.data_preprocessor(pseudo_collate([pictures[k]]), False), mode='tensor')
        terms += [layer.aux.item() for layer in layers]
    return sum(terms) / len(terms)


@pytest.mark.slow
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_covariances_are_lower_after_training_with_the_loss(seed, streets, monkeypatch):
    monkeypatch.chdir(streets)
    without, after = term_after_training(0, seed), term_after_training(0.6, seed)
    assert without > 0.02
    assert after <= 0.8 * without
