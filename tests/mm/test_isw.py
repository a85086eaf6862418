"""The schedule of instance selective whitening in the Runner."""

from types import SimpleNamespace

import pytest
import torch
from expected import LONELY
from mmengine.registry import MODELS
from mmengine.runner import Runner
from nets import THIN
from torch.utils.data import DataLoader, Dataset

import timm_stylenorm
import timm_stylenorm.classification
from timm_stylenorm.runner import isw

pytestmark = LONELY


class Pictures(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        return dict(inputs=image, targets=index % 4)


def train(tmp_path, hooks, **style):
    model = dict(type='StyleNormClassifier', model='resnet18', num_classes=4, **THIN)
    runner = Runner(
        model=dict(**model, style=dict(type='isw', **style)),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=4, num_workers=0, dataset=Pictures(), sampler=dict(type='InfiniteSampler', shuffle=True)
        ),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=100),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=None, logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=hooks,
        randomness=dict(seed=0),
        log_level='WARNING',
        default_scope='mmengine',
        experiment_name=f'isw_{tmp_path.name}',
    )
    seen = []
    forward = runner.model._losses
    runner.model._losses = lambda *a: seen.append(forward(*a)) or seen[-1]
    runner.train()
    return runner.model, [sorted(k for k in losses if k.startswith('style.')) for losses in seen]


def test_the_hook_starts_the_loss_at_its_iteration(tmp_path):
    model, losses = train(tmp_path, [dict(type='ISWHook', begin=2, batches=2)])
    names = ['style.isw.stage1.sum', 'style.isw.stage2.sum', 'style.isw.stem.norm']
    assert losses == [[], [], names, names]
    assert all(layer.chosen for _, layer in timm_stylenorm.style_layers(model))


@pytest.mark.parametrize('kind', ['ImgDataPreprocessor', 'SegDataPreProcessor', 'ClsPreprocessor'])
@pytest.mark.parametrize('turned', [True, False])
def test_photometric_views_are_made_of_rgb_images(kind, turned, monkeypatch):
    """A picture of pure red, in the order in which its loader gives it."""
    pytest.importorskip('mmseg.models')
    ours = kind == 'ClsPreprocessor'
    preprocessor = MODELS.build(dict(type=kind, **({} if ours else dict(bgr_to_rgb=turned)), _scope_='mmseg'))
    red = torch.zeros(3, 4, 4, dtype=torch.uint8)
    red[0 if ours else 2] = 255
    seen = []
    monkeypatch.setattr(isw, 'photometric_view', lambda image: seen.append(image) or image // 2)
    hook = isw.ISWHook(begin=0, batches=1)
    (pair,) = hook._pairs([{'inputs': [red, red]}], SimpleNamespace(data_preprocessor=preprocessor))
    assert all(image[0].min() == 255 and image[1:].max() == 0 for image in seen)
    assert [image.tolist() for image in pair['inputs']] == [i.tolist() for i in (red // 2, red // 2, red, red)]


def test_the_hook_leaves_the_random_numbers_alone(tmp_path):
    """With a loss of weight 0 the training goes on as if nothing had been chosen."""
    with_hook, _ = train(tmp_path / 'a', [dict(type='ISWHook', begin=2, batches=2)], loss_weight=0.0)
    without, _ = train(tmp_path / 'b', [], loss_weight=0.0)
    assert all(torch.equal(a, b) for a, b in zip(with_hook.parameters(), without.parameters(), strict=True))


def test_a_run_resumed_without_a_choice_chooses_late(tmp_path):
    hook = isw.ISWHook(begin=2, batches=1)
    model, losses = train(tmp_path, [dict(type='ISWHook', begin=0, batches=1)])
    assert all(losses), 'the choice comes before the first step'
    for _, layer in timm_stylenorm.style_layers(model):
        layer.chosen = 0
    runner = SimpleNamespace(iter=3, model=model, train_dataloader=DataLoader(Pictures(), 4))
    hook.before_train_iter(runner, 0)
    assert all(layer.chosen for _, layer in timm_stylenorm.style_layers(model))


def test_wrong_schedules_are_named():
    with pytest.raises(ValueError, match='begin >= 0 and batches >= 1, got -1 and 50'):
        isw.ISWHook(begin=-1)
