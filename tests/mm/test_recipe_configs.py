"""The recipes' configs beyond what holds for every config: schedules, and the styliser that needs files."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip('mmengine')

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from torch import nn

import timm_stylenorm.classification  # noqa: F401 (registers)
from timm_stylenorm.recipes import vgg
from timm_stylenorm.runner.configs import config_root

SCHEDULES = {  # first learning rate after the warm-up, epochs, epochs of decay by 10, batch size: of the authors
    'resnet50_4xb64-100e': (0.1, 100, [30, 60, 90], 256),
    'resnet50_advbn_4xb64-20e': (1e-3, 20, [10], 256),
    'resnet50_debiased_8xb64-100e': (0.2, 100, [30, 60, 90], 512),
    'resnet101_debiased_8xb32-100e': (0.1, 100, [30, 60, 90], 256),
    'resnet152_debiased_8xb32-100e': (0.1, 100, [30, 60, 90], 256),
    'resnext101_debiased-mixup_8xb32-180e': (0.1, 180, [60, 120, 160], 256),
    'resnext101_debiased-cutmix_8xb32-210e': (0.1, 210, [75, 150, 180], 256),
}


def load(name):
    cfg = Config.fromfile(config_root() / f'classification/{name}_imagenet.py')
    cfg.model.pretrained = False
    return cfg


def rates(cfg, epoch_length=4):
    """Learning rates, of each iteration of all epochs."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), cfg.optim_wrapper.optimizer.lr)
    schedulers = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    built = []
    for scheduler in schedulers:
        kind, arguments = PARAM_SCHEDULERS.get(scheduler.type), {k: v for k, v in scheduler.items() if k != 'type'}
        if arguments.pop('convert_to_iter_based', False):
            built.append(kind.build_iter_from_epoch(**arguments, optimizer=optimizer, epoch_length=epoch_length))
        else:
            built.append(kind(optimizer, **arguments))
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(epoch_length):
            yield optimizer.param_groups[0]['lr']
            optimizer.step()
            for scheduler in built:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in built:
            if scheduler.by_epoch:
                scheduler.step()


@pytest.mark.parametrize('name', SCHEDULES)
def test_learning_rates_and_batches_on_imagenet_are_those_of_the_authors(name):
    rate, epochs, decays, size = SCHEDULES[name]
    cfg = load(name)
    lrs = list(rates(cfg))
    per_epoch = lrs[3::4]
    assert len(per_epoch) == epochs == cfg.train_cfg.max_epochs
    warm = 5 if 'debiased' in name else 0
    assert all(before < after for before, after in pairwise(lrs[: warm * 4]))
    for epoch in range(warm, epochs):
        assert per_epoch[epoch] == pytest.approx(rate * 0.1 ** sum(epoch >= d for d in decays)), epoch
    gpus = int(name.split('_')[-1].split('x')[0])
    assert gpus * cfg.train_dataloader.batch_size == size == cfg.auto_scale_lr.base_batch_size
    assert (cfg.optim_wrapper.optimizer.momentum, cfg.optim_wrapper.optimizer.weight_decay) == (0.9, 1e-4)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The config for ResNet-50, as narrow as it gets, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    cfg = load('resnet50_debiased_8xb64-100e')
    cfg.model.update(model='test_resnet', num_classes=4)
    return cfg


def test_without_its_files_the_styliser_says_where_they_come_from(small):
    with pytest.raises(FileNotFoundError, match='train_styliser'):
        MODELS.build(small.model)


def test_the_debiased_recipe_of_imagenet_trains_with_the_files_it_names(small, tmp_path):
    (tmp_path / 'data/adain').mkdir(parents=True)
    torch.save(vgg.encoder().state_dict(), tmp_path / 'data/adain/vgg_normalised.pth')
    torch.save(vgg.decoder().state_dict(), tmp_path / 'data/adain/decoder.pth')
    model = MODELS.build(small.model).train()
    wrapper = build_optim_wrapper(model, small.optim_wrapper)
    model.recipe.set_progress(0.0)
    log = model.train_step(dict(inputs=torch.randint(256, (2, 3, 32, 32)).byte(), targets=torch.arange(2)), wrapper)
    assert {'loss', 'loss_cls', 'stylised.loss_cls'} <= log.keys()
    assert all(value.isfinite() for value in log.values())
    assert not [key for key in model.state_dict() if 'encoder' in key or 'styliser' in key]
