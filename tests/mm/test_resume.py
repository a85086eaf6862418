"""A run killed by SIGKILL and resumed ends with the weights of the run that was never killed, bit for bit."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from tiny_runs import start, status

import timm_stylenorm.runner  # noqa: F401 (patches mmengine, registers hooks)
from timm_stylenorm.layers import PermutedAdaIN


@DATASETS.register_module()
class DrawingDataset(torch.utils.data.Dataset):
    """Images augmented with all three generators."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(3, 6, 6)  # noqa: NPY002
        return {'image': noise + index / 10 - 2, 'label': index % 3}


@MODELS.register_module()
class DrawingModel(BaseModel):
    """Convolutions with pAdaIN at p = 0.5; validation draws as well."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), PermutedAdaIN(8, p=0.5), nn.Tanh(), nn.Conv2d(8, 3, 3))

    def forward(self, image, label, mode):
        logits = self.net(torch.stack(image)).mean((2, 3))
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, torch.tensor(label))}
        return [torch.rand(()), random.random(), np.random.rand()]  # noqa: NPY002


@METRICS.register_module()
class NoMetric(BaseMetric):
    """Counts batches."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'count': len(results)}


@HOOKS.register_module()
class SigkillHook(Hook):
    """SIGKILL in the middle of training."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(work_dir, by_epoch, workers, kill_at, resume, hook=True):
    loader = {
        'batch_size': 4,
        'num_workers': workers,
        'persistent_workers': bool(workers) and not by_epoch,
        'sampler': {'type': 'DefaultSampler' if by_epoch else 'InfiniteSampler', 'shuffle': True},
        'dataset': {'type': 'DrawingDataset'},
    }
    loop = {'by_epoch': True, 'max_epochs': 4, 'val_interval': 1}
    if not by_epoch:
        loop = {'type': 'IterBasedTrainLoop', 'max_iters': 16, 'val_interval': 3}
    cfg = {
        'model': {'type': 'DrawingModel'},
        'work_dir': str(work_dir),
        'train_dataloader': loader,
        'val_dataloader': {**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        'val_evaluator': {'type': 'NoMetric'},
        'val_cfg': {'type': 'ValLoop'},
        'train_cfg': loop,
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}},
        'default_hooks': {
            'checkpoint': {
                'type': 'CheckpointHook', 'by_epoch': by_epoch, 'interval': 1 if by_epoch else 5, 'save_best': 'count',
                'rule': 'greater'
            }
        },
        'custom_hooks': [{'type': 'RNGStateHook'}] * hook + [{'type': 'SigkillHook', 'at': kill_at}] * bool(kill_at),
        'randomness': {'seed': 3},
        'resume': resume,
        'default_scope': 'mmengine',
        'log_level': 'WARNING',
    }  # fmt: skip
    return Runner.from_cfg(Config(cfg)).train()


def killed_and_resumed(tmp_path, by_epoch, workers, hook=True):
    work_dir, kill_at = tmp_path / 'killed', 13 if by_epoch else 12
    assert status(start(train, work_dir, by_epoch, workers, kill_at, False, hook)) == -signal.SIGKILL
    return train(work_dir, by_epoch, workers, 0, True, hook).state_dict()


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_run_resumes_bit_for_bit(tmp_path, by_epoch, workers):
    whole = train(tmp_path / 'whole', by_epoch, workers, 0, False).state_dict()
    resumed = killed_and_resumed(tmp_path, by_epoch, workers)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_without_the_hook_resume_differs(tmp_path):
    whole = train(tmp_path / 'whole', False, 0, 0, False, hook=False).state_dict()
    resumed = killed_and_resumed(tmp_path, False, 0, hook=False)
    assert any(not torch.equal(value, resumed[name]) for name, value in whole.items())
