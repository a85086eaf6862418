"""Trainings of a few seconds in mmengine's Runner, in this process or in one that is killed."""

import gc
import os
import signal
import traceback

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn

import timm_stylenorm.runner  # noqa: F401 (patches mmengine, registers hooks)


@DATASETS.register_module()
class TinyData(torch.utils.data.Dataset):
    """Vectors whose meta information is that of a segmentation data set, with a palette as array."""

    metainfo = {'classes': ('road', 'car'), 'palette': np.array([[1, 2, 3], [4, 5, 6]], np.uint8)}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {'x': torch.full((4,), float(index)), 'label': index % 2}


@MODELS.register_module()
class TinyModel(BaseModel):
    """A batch norm, dropout, which draws, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2))

    def forward(self, x, label, mode='loss'):
        logits = self.net(torch.stack(x))
        return {'loss': nn.functional.cross_entropy(logits, torch.tensor(label))} if mode == 'loss' else [logits]


@METRICS.register_module()
class Rising(BaseMetric):
    """A numpy number that rises, so that every validation is the best so far."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'acc': np.float64(MessageHub.get_current_instance().get_info('iter'))}


@HOOKS.register_module()
class Stop(Hook):
    """Ends a run before an iteration, as an error would."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise KeyboardInterrupt


def config(work_dir, by_epoch=False, steps=6, stop=None, hooks=(), checkpoint=(), **changes):
    """A run of `steps` iterations or epochs that keeps one checkpoint."""
    loader = {
        'batch_size': 4,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler' if by_epoch else 'InfiniteSampler', 'shuffle': True},
        'dataset': {'type': 'TinyData'},
    }
    loop = {'type': 'EpochBasedTrainLoop', 'max_epochs': steps, 'val_interval': 1}
    if not by_epoch:
        loop = {'type': 'IterBasedTrainLoop', 'max_iters': steps, 'val_interval': 2}
    saving = {'type': 'CheckpointHook', 'by_epoch': by_epoch, 'interval': 1 if by_epoch else 2, 'max_keep_ckpts': 1}
    cfg = {
        'model': {'type': 'TinyModel'},
        'work_dir': str(work_dir),
        'train_dataloader': loader,
        'val_dataloader': {**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        'val_evaluator': {'type': 'Rising'},
        'val_cfg': {'type': 'ValLoop'},
        'train_cfg': loop,
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}},
        'param_scheduler': [{'type': 'PolyLR', 'end': 20, 'by_epoch': by_epoch}],
        'default_hooks': {'checkpoint': {**saving, **dict(checkpoint)}},
        'custom_hooks': [{'type': 'RNGStateHook'}, {'type': 'CheckpointGuardHook'}, *hooks],
        'randomness': {'seed': 1},
        'default_scope': 'mmengine',
        'log_level': 'WARNING',
        'experiment_name': f'{work_dir}_{os.urandom(4).hex()}',
    }
    if stop is not None:
        cfg['custom_hooks'].append({'type': 'Stop', 'at': stop})
    return Config({**cfg, **changes})


def train(work_dir, **options):
    """Trains and returns the Runner; with `stop` it ends early."""
    runner = Runner.from_cfg(config(work_dir, **options))
    try:
        runner.train()
    except KeyboardInterrupt:
        if options.get('stop') is None:
            raise
    return runner


def kill_in_write(of):
    """The process is killed when half of a file whose name contains `of` is written."""
    put = LocalBackend.put

    def half(self, obj, filepath):
        if of not in os.path.basename(str(filepath)):
            return put(self, obj, filepath)
        with open(filepath, 'wb') as file:
            file.write(obj[: len(obj) // 2])
        return os.kill(os.getpid(), signal.SIGKILL)

    LocalBackend.put = half


def start(function, *args, **kwargs):
    """Runs a function in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    gc.freeze()  # finalizers of what the tests before have left would run in it
    try:
        function(*args, **kwargs)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def status(child):
    """Waits for a process of `start`: 0, 1 after an error, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
