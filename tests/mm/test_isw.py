"""The schedule of instance selective whitening in the Runner."""

from types import SimpleNamespace

import pytest
import torch
from expected import LONELY
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS
from mmengine.runner import Runner
from nets import THIN
from torch.utils.data import DataLoader, Dataset, IterableDataset

import timm_stylenorm
import timm_stylenorm.classification
from timm_stylenorm.runner import isw
from timm_stylenorm.whitening import select_pairs

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
    model, losses = train(tmp_path, [dict(type='ISWHook', begin=2, images=6, trials=2)])
    names = ['style.isw.stage1.sum', 'style.isw.stage2.sum', 'style.isw.stem.norm']
    assert losses == [[], [], names, names]
    assert all(layer.chosen for _, layer in timm_stylenorm.style_layers(model))


def loader_of(dataset, workers=0):
    return DataLoader(dataset, 4, num_workers=workers, collate_fn=pseudo_collate)


def observed(monkeypatch, hook, model, loader):
    """The images that each layer's choice was made from: a list of batches."""
    seen = []
    forward = isw.forward_in

    def spy(model, mode):
        run = forward(model, mode)
        return lambda batch: seen.append([image.clone() for image in batch['inputs']]) or run(batch)

    monkeypatch.setattr(isw, 'forward_in', spy)
    hook.before_train_iter(SimpleNamespace(iter=hook.begin, model=model, train_dataloader=loader), 0)
    return seen


def numbers(batches):
    """Which of `Pictures` each batch shows."""
    known = {Pictures()[k]['inputs'].numpy().tobytes(): k for k in range(16)}
    return [known[image.numpy().tobytes()] for _, image in batches]


@pytest.mark.parametrize('workers', [0, 2])
def test_pairs_are_chosen_from_one_image_and_its_view_at_a_time(workers, monkeypatch):
    model = MODELS.build(dict(type='StyleNormClassifier', model='resnet18', num_classes=4, style='isw', **THIN))
    hook = isw.ISWHook(begin=0, images=6, trials=3)
    batches = observed(monkeypatch, hook, model, loader_of(Pictures(), workers))
    assert [len(batch) for batch in batches] == [2] * 18
    trials = [numbers(batches[k : k + 6]) for k in (0, 6, 12)]
    assert all(len(set(trial)) == 6 for trial in trials), 'no image twice'
    assert trials[0] != trials[1] != trials[2]
    views = {view.numpy().tobytes() for view, _ in batches}
    assert len(views) == 18, 'an image that comes again has another view'
    assert all(layer.chosen for _, layer in timm_stylenorm.style_layers(model))


def test_processes_share_the_images_of_a_trial(monkeypatch):
    model = SimpleNamespace(data_preprocessor=MODELS.build(dict(type='ClsPreprocessor')))
    alone = isw.ISWHook(begin=0, images=7)._batches(loader_of(Pictures()), model)
    expected = [numbers(batch['inputs'] for batch in alone) for _ in range(2)]
    shares = []
    for rank in range(2):
        monkeypatch.setattr(isw, 'get_rank', lambda rank=rank: rank)
        monkeypatch.setattr(isw, 'get_world_size', lambda: 2)
        batches = isw.ISWHook(begin=0, images=7)._batches(loader_of(Pictures()), model)
        shares.append([numbers(batch['inputs'] for batch in batches) for _ in range(2)])
    for trial, first, second in zip(expected, *shares, strict=True):
        assert (first, second) == (trial[::2], trial[1::2])


def test_a_pair_must_react_in_every_trial(monkeypatch):
    """Each trial by itself, on the batches that the hook looked at; what all of them choose is what the hook chose."""
    model = MODELS.build(dict(type='StyleNormClassifier', model='resnet18', num_classes=4, style='isw', **THIN))
    batches = observed(monkeypatch, isw.ISWHook(begin=0, images=3, trials=4), model, loader_of(Pictures()))
    chosen = [layer.mask.clone() for _, layer in timm_stylenorm.style_layers(model)]
    single = []
    for k in range(0, 12, 3):
        trial = [{'inputs': torch.stack(batch)} for batch in batches[k : k + 3]]
        select_pairs(model, trial, lambda batch: model(model.data_preprocessor(batch, False)['inputs']))
        single.append([layer.mask.clone() for _, layer in timm_stylenorm.style_layers(model)])
    expected = [torch.stack(masks).all(0) for masks in zip(*single, strict=True)]
    assert all(a.equal(b) for a, b in zip(chosen, expected, strict=True))
    assert any(int(mask.sum()) > int(both.sum()) for mask, both in zip(single[0], expected, strict=True))


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
    batches = isw.ISWHook(begin=0, images=1)._batches(
        loader_of([{'inputs': red}]), SimpleNamespace(data_preprocessor=preprocessor)
    )
    (pair,) = batches
    assert all(image[0].min() == 255 and image[1:].max() == 0 for image in seen)
    assert [image.tolist() for image in pair['inputs']] == [i.tolist() for i in (red // 2, red)]


def test_images_of_a_stream_are_compared_too(monkeypatch):
    class Stream(IterableDataset):
        def __iter__(self):
            return (Pictures()[k] for k in range(16))

    model = MODELS.build(dict(type='StyleNormClassifier', model='resnet18', num_classes=4, style='isw', **THIN))
    batches = observed(monkeypatch, isw.ISWHook(begin=0, images=5, trials=2), model, loader_of(Stream()))
    assert numbers(batches) == [0, 1, 2, 3, 4] * 2


def test_the_hook_leaves_the_random_numbers_alone(tmp_path):
    """With a loss of weight 0 the training goes on as if nothing had been chosen."""
    with_hook, _ = train(tmp_path / 'a', [dict(type='ISWHook', begin=2, images=6, trials=2)], loss_weight=0.0)
    without, _ = train(tmp_path / 'b', [], loss_weight=0.0)
    assert all(torch.equal(a, b) for a, b in zip(with_hook.parameters(), without.parameters(), strict=True))


def test_a_run_resumed_without_a_choice_chooses_late(tmp_path):
    hook = isw.ISWHook(begin=2, images=2, trials=1)
    model, losses = train(tmp_path, [dict(type='ISWHook', begin=0, images=2, trials=1)])
    assert all(losses), 'the choice comes before the first step'
    for _, layer in timm_stylenorm.style_layers(model):
        layer.chosen = 0
    runner = SimpleNamespace(iter=3, model=model, train_dataloader=loader_of(Pictures()))
    hook.before_train_iter(runner, 0)
    assert all(layer.chosen for _, layer in timm_stylenorm.style_layers(model))


def test_wrong_schedules_are_named():
    with pytest.raises(ValueError, match='begin >= 0, images >= 1 and trials >= 1, got -1, 500 and 10'):
        isw.ISWHook(begin=-1)
    hook = isw.ISWHook(begin=0, pipeline=[dict(type='LoadImageFromFile')])
    model = MODELS.build(dict(type='StyleNormClassifier', model='resnet18', num_classes=4, style='isw', **THIN))
    with pytest.raises(TypeError, match='a Pictures has no pipeline to replace'):
        hook.before_train(SimpleNamespace(max_iters=9, model=model, train_dataloader=loader_of(Pictures())))
