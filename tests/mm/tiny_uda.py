"""A tiny segmentation task with a source and a target, for the tests of adaptation; run as a script, one process."""

import copy
import os
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample

import mmseg_stylenorm  # noqa: F401 (registers what the configs name)
from timm_stylenorm.runner import distributed

CLASSES = ('a', 'b', 'c', 'd')
MODEL = {
    'data_preprocessor': {'type': 'SegDataPreProcessor', 'mean': [120.0], 'std': [60.0], 'size': (24, 40)},
    'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 4, 'stem_channels': 4, 'norm_eval': False},
    'decode_head': {
        'type': 'DeepLabV2Head', 'in_channels': 32, 'in_index': 3, 'num_classes': 4, 'align_corners': True
    },
    'train_cfg': {},
    'test_cfg': {'mode': 'whole'},
}  # fmt: skip
AUXILIARY = {
    'type': 'DeepLabV2Head', 'in_channels': 16, 'in_index': 2, 'num_classes': 4, 'align_corners': True,
    'loss_decode': {'type': 'CrossEntropyLoss', 'loss_weight': 0.1},
}  # fmt: skip
KINDS = {
    'maxsquare': {'type': 'MaxSquareUDA', 'auxiliary_head': AUXILIARY, 'threshold': 0.3, 'image_weighted': True},
    'fada': {
        'type': 'FADA', 'discriminator': {'channels': (8, 4)}, 'style': {
            'type': 'padain', 'p': 0.5, 'mode': 'source_target'
        }
    },
}  # fmt: skip


@DATASETS.register_module(force=True)
class TinyStreets(torch.utils.data.Dataset):
    """Random pictures of one size; a picture depends on its domain and number."""

    def __init__(self, size, labels, length=6, classes=CLASSES):
        self.size, self.labels, self.length, self.metainfo = tuple(size), labels, length, {'classes': classes}

    def full_init(self):
        """Nothing to list."""

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 100 * self.labels)
        image = torch.randint(0, 256, (3, *self.size), dtype=torch.uint8, generator=generator)
        sample = SegDataSample(metainfo={'number': index})
        if self.labels:
            label = image[:1].long() // 64
            sample.gt_sem_seg = PixelData(data=torch.where(label == 3, 255, label))
        return {'inputs': image, 'data_samples': sample}


SOURCE = {'type': 'TinyStreets', 'size': (24, 40), 'labels': True}
TARGET = {'type': 'TinyStreets', 'size': (16, 32), 'labels': False, 'length': 5}
PAIRS = {'type': 'UDADataset', 'source': SOURCE, 'target': TARGET}


def build(kind=None, **changes):
    """A model with random weights, in training."""
    init_default_scope('mmseg')
    plain = {'type': 'StyleNormEncoderDecoder'}
    cfg = Config({'model': {**MODEL, **KINDS.get(kind, plain), **changes}})
    return MODELS.build(cfg.model).train()


def batch(count=2, dataset=PAIRS):
    """The first items of a data set."""
    init_default_scope('mmseg')
    data = DATASETS.build(copy.deepcopy(dataset))
    return pseudo_collate([data[k] for k in range(count)])


def losses_of(model, count=2):
    """A batch as the model gets it, and its losses."""
    data = model.data_preprocessor(batch(count), training=True)
    return data, model(**data, mode='loss')


def gradients(model, total):
    """By parameter."""
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Ends a run in its middle, as a kill would."""

    priority = 'LOWEST'  # after the checkpoint

    def __init__(self, at):
        self.at = at

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at:
            raise KeyboardInterrupt


def config(kind, work_dir, iters=4, workers=0, **changes):
    """A run of the Runner."""
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}}
    if kind == 'fada':
        wrapper['constructor'] = 'AdversarialOptimWrapperConstructor'
        wrapper['discriminator'] = {'optimizer': {'type': 'Adam', 'lr': 1e-3, 'betas': (0.9, 0.99)}}
    cfg = {
        'model': {**MODEL, **KINDS[kind]},
        'work_dir': str(work_dir),
        'train_dataloader': {
            'batch_size': 2,
            'num_workers': workers,
            'persistent_workers': bool(workers),
            'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
            'dataset': PAIRS,
        },
        'train_cfg': {'type': 'IterBasedTrainLoop', 'max_iters': iters, 'val_interval': 1000},
        'optim_wrapper': wrapper,
        'param_scheduler': [{'type': 'PolyLR', 'eta_min': 0.0, 'power': 0.9, 'end': 10, 'by_epoch': False}],
        'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'by_epoch': False, 'interval': 2}},
        'custom_hooks': [{'type': 'RNGStateHook'}, {'type': 'CheckpointGuardHook'}],
        'randomness': {'seed': 0},
        'default_scope': 'mmseg',
        'log_level': 'WARNING',
        'experiment_name': f'{Path(work_dir).parent.name}_{Path(work_dir).name}_{changes.get("resume", False)}',
    }
    return Config({**cfg, **changes})


def train(kind, work_dir, iters=4, workers=0, stop=0, **changes):
    """Trains and returns the Runner; with `stop` it ends early, without the Runner's own last words."""
    cfg = config(kind, work_dir, iters, workers, **changes)
    cfg.custom_hooks = [*cfg.custom_hooks, *([{'type': 'KillHook', 'at': stop}] if stop else [])]
    distributed.prepare_cpu_distributed(cfg, cfg.get('launcher', 'none'))
    runner = Runner.from_cfg(cfg)
    try:
        runner.train()
    except KeyboardInterrupt:
        if not stop:
            raise
    return runner


class KeepStart(Hook):
    """Saves the weights of the first process before training."""

    def before_train(self, runner):
        if is_main_process():
            torch.save(runner.model.module.state_dict(), f'{runner.work_dir}_start.pth')


if __name__ == '__main__':
    HOOKS.register_module(module=KeepStart)
    out, rank = Path(sys.argv[1]), os.environ['RANK']
    for name in KINDS:
        hooks = [{'type': 'RNGStateHook'}, {'type': 'KeepStart'}]
        trained = train(name, out / name, launcher='pytorch', custom_hooks=hooks).model.module
        torch.save(trained.state_dict(), out / f'{name}_{rank}.pth')
