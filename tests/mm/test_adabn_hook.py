"""AdaBN in the Runner: adapted while testing, the old model before and after; the same for any number of processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner

import timm_stylenorm.classification  # noqa: F401 (registers TopK)
from timm_stylenorm.adapt import get_statistics
from timm_stylenorm.runner import adabn, distributed, loaders
from timm_stylenorm.runner.configs import config_root

GAIN, OFFSET = torch.tensor([0.3, 2.0, 1.0]).view(3, 1, 1), torch.tensor([2.0, -1.0, 0.5]).view(3, 1, 1)


@DATASETS.register_module()
class BrightChannel(torch.utils.data.Dataset):
    """The class is the channel that is brighter than the others; the target domain has other gains and offsets."""

    metainfo = {}

    def __init__(self, shifted, count=24, widths=(4, 6), domain=None):
        self.shifted, self.count, self.widths, self.domain = shifted, count, widths, domain

    def domain_of(self, index):
        return self.domain

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = 0.5 * torch.randn(3, 4, self.widths[index % len(self.widths)], generator=generator)
        image[index % 3] += 1
        sample = {'inputs': image * GAIN + OFFSET if self.shifted else image, 'targets': index % 3}
        return sample if self.domain is None else {**sample, 'domain': self.domain}


@MODELS.register_module()
class ChannelNet(BaseModel):
    """Right on its own domain from the start, for its statistics are those of the data."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(1 / 3)
        self.norm.running_var.fill_(0.5)
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.conv.weight)
        self.unused = nn.BatchNorm2d(3)

    def forward(self, inputs, targets=None, mode='tensor', domain=None):
        if mode == 'tensor':
            return self.conv(self.norm(torch.stack(inputs)))
        logits = torch.stack([self.conv(self.norm(image[None]))[0].mean((1, 2)) for image in inputs])
        if mode == 'loss':
            return {'loss': nn.functional.cross_entropy(logits, torch.tensor(targets))}
        names = domain or [None] * len(targets)
        samples = zip(logits, targets, names, strict=True)
        return [{'scores': row, 'target': target, 'domain': name} for row, target, name in samples]


@DATASETS.register_module()
class BrightViews(BrightChannel):
    """Each image and its mirror image, as test-time augmentation gives them."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {key: [value, value.flip(-1) if key == 'inputs' else value] for key, value in sample.items()}


@MODELS.register_module()
class MeanOfViews(BaseTTAModel):
    """Adds the scores of the views up."""

    def merge_preds(self, predictions):
        return [{**views[0], 'scores': sum(view['scores'] for view in views)} for views in predictions]


@HOOKS.register_module()
class SeeStatistics(Hook):
    """Notes the statistics at every image that is tested."""

    def __init__(self):
        self.seen = []

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(adabn.bare_model(runner.model).norm.running_mean.clone())

    after_val_iter = after_test_iter


def loader(shifted=True, **kwargs):
    sampler = {'type': 'DefaultSampler', 'shuffle': False}
    return {
        'batch_size': 1,
        'num_workers': 0,
        'sampler': sampler,
        'dataset': {'type': 'BrightChannel', 'shifted': shifted, **kwargs},
    }


def config(work_dir, *custom_hooks, train=False, launcher='none', **changes):
    cfg = {
        'model': {'type': 'ChannelNet'},
        'work_dir': str(work_dir),
        'test_dataloader': loader(),
        'test_cfg': {},
        'test_evaluator': {'type': 'TopK', 'topk': 1},
        'custom_hooks': list(custom_hooks),
        'default_scope': 'mmengine',
        'launcher': launcher,
        'experiment_name': Path(work_dir).name,
        'log_level': 'INFO',
    }
    if train:
        cfg |= {
            'train_dataloader': {
                **loader(False),
                'batch_size': 4,
                'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            },
            'train_cfg': {'by_epoch': True, 'max_epochs': 2},
            'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}},
            'val_dataloader': loader(),
            'val_cfg': {},
            'val_evaluator': {'type': 'TopK', 'topk': 1},
            'randomness': {'seed': 0},
        }
    return Config({**cfg, **changes})


def hook_of(runner, kind):
    return next(hook for hook in runner.hooks if isinstance(hook, kind))


def test_adaptation_restores_the_accuracy_that_a_shift_of_colours_took(tmp_path):
    assert Runner.from_cfg(config(tmp_path / 'source')).test()['accuracy/top1'] < 50
    runner = Runner.from_cfg(config(tmp_path / 'adapted', {'type': 'AdaBNHook'}))
    assert runner.test()['accuracy/top1'] == 100
    log = next((tmp_path / 'adapted').rglob('*.log')).read_text()
    assert 'AdaBN: 2 batch norms estimated anew, on 24 images' in log


def test_images_of_different_sizes_give_the_moments_of_all_of_them(tmp_path):
    runner = Runner.from_cfg(config(tmp_path, {'type': 'SeeStatistics'}, {'type': 'AdaBNHook', 'batch_size': 5}))
    before = get_statistics(runner.model)
    runner.test()
    seen = hook_of(runner, SeeStatistics).seen
    assert len(seen) == 24
    per_image = torch.stack([BrightChannel(True)[k]['inputs'].mean((1, 2)) for k in range(24)])
    for mean in seen:
        torch.testing.assert_close(mean, per_image.mean(0))
    for old, new in zip(before, get_statistics(runner.model), strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)


def test_adapting_in_validation_does_not_disturb_training(tmp_path):
    results = []
    for name, extra in (('plain', ()), ('adapted', ({'type': 'AdaBNHook', 'on': 'val', 'batch_size': 4},))):
        runner = Runner.from_cfg(config(tmp_path / name, {'type': 'SeeStatistics'}, *extra, train=True))
        state = runner.train().state_dict()
        results.append((hook_of(runner, SeeStatistics).seen, state))
    (plain_seen, plain), (adapted_seen, adapted) = results
    assert len(plain_seen) == len(adapted_seen) == 48
    assert not any(map(torch.equal, plain_seen, adapted_seen))
    assert all(torch.equal(value, adapted[key]) for key, value in plain.items())


def test_averaged_weights_and_statistics_come_back_too(tmp_path):
    """EMAHook exchanges weights and, here, statistics for the validation: both hooks must undo their own part."""
    ema = {'type': 'EMAHook', 'ema_type': 'ExponentialMovingAverage', 'momentum': 0.3, 'update_buffers': True}
    results = []
    for name, extra in (('plain', ()), ('adapted', ({'type': 'AdaBNHook', 'on': ('val', 'test')},))):
        runner = Runner.from_cfg(config(tmp_path / name, ema, *extra, train=True))
        results.append(runner.train().state_dict())
        averages = hook_of(runner, EMAHook).ema_model.state_dict()
        results[-1] |= {f'ema.{key}': value for key, value in averages.items()}
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def test_adapted_statistics_can_be_kept_moved_in_part_and_come_from_other_images(tmp_path):
    hook = {'type': 'AdaBNHook', 'keep': True, 'momentum': 0.25, 'max_batches': 1}
    other = {**loader(False, widths=(4,)), 'batch_size': 24}
    runner = Runner.from_cfg(config(tmp_path, {**hook, 'dataloader': other}))
    runner.test()
    data = BrightChannel(False, widths=(4,))
    mean = torch.stack([data[k]['inputs'] for k in range(24)]).mean((0, 2, 3))
    torch.testing.assert_close(runner.model.norm.running_mean, 0.75 / 3 + 0.25 * mean)
    assert runner.model.unused.num_batches_tracked == 0


def test_endless_samplers_end_with_the_data_set(tmp_path):
    endless = {**loader(widths=(4,)), 'batch_size': 8, 'sampler': {'type': 'InfiniteSampler'}}
    runner = Runner.from_cfg(config(tmp_path, {'type': 'AdaBNHook', 'keep': True, 'dataloader': endless}))
    runner.test()
    assert runner.model.norm.num_batches_tracked == 3


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'batch_size': 4, 'dataloader': {}}, r'dataloader=dict\(batch_size'),
        ({'on': 'train'}, "got 'train'"),
        ({'momentum': 2.0}, 'got 2.0'),
    ],
)
def test_impossible_options_are_named_when_the_hook_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        adabn.AdaBNHook(**options)


def two_domains(batch_size, kind='BrightChannel'):
    parts = {name: dict(type=kind, shifted=s, widths=(4,)) for s, name in ((0, 'clean'), (1, 'other'))}
    return {**loader(), 'batch_size': batch_size, 'dataset': {'type': 'MultiDomainDataset', 'domains': parts}}


@pytest.mark.parametrize('views', [False, True], ids=['images', 'views'])
def test_each_domain_is_tested_with_statistics_of_its_own(tmp_path, views):
    hook, see, changes = {'type': 'AdaBNHook'}, {'type': 'SeeStatistics'}, {}
    if views:
        changes['model'] = {'type': 'MeanOfViews', 'module': {'type': 'ChannelNet'}}
    data = two_domains(8, 'BrightViews' if views else 'BrightChannel')
    runner = Runner.from_cfg(config(tmp_path, see, hook, test_dataloader=data, **changes))
    metrics = runner.test()
    assert metrics['accuracy/clean/top1'] == metrics['accuracy/other/top1'] == 100
    seen = hook_of(runner, SeeStatistics).seen
    for shifted, means in ((False, seen[:3]), (True, seen[3:])):
        data = BrightChannel(shifted, widths=(4,))
        expected = torch.stack([data[k]['inputs'] for k in range(24)]).mean((0, 2, 3))
        for mean in means:
            torch.testing.assert_close(mean, expected)
    assert torch.equal(adabn.bare_model(runner.model).norm.running_mean, ChannelNet().norm.running_mean)


def test_domains_can_be_adapted_to_together_and_are_not_mixed_unasked(tmp_path):
    runner = Runner.from_cfg(config(tmp_path / 'mixed', {'type': 'AdaBNHook'}, test_dataloader=two_domains(7)))
    with pytest.raises(ValueError, match='clean, other'):
        runner.test()
    together = {'type': 'AdaBNHook', 'by_domain': False}
    see = {'type': 'SeeStatistics'}
    runner = Runner.from_cfg(config(tmp_path / 'together', see, together, test_dataloader=two_domains(7)))
    runner.test()
    first, *others = hook_of(runner, SeeStatistics).seen
    assert all(torch.equal(first, other) for other in others)


def test_views_of_test_time_augmentation_count_as_images():
    images = [torch.zeros(3, 4, 4), torch.zeros(3, 4, 6)]
    batch = {'inputs': [images, images], 'data_samples': [['a', 'b'], ['c', 'd']]}
    parts = list(loaders.same_size(batch))
    assert [(len(p['inputs']), p['data_samples']) for p in parts] == [(1, ['a']), (1, ['b']), (1, ['c']), (1, ['d'])]


@pytest.mark.parametrize('mode', ['tensor', 'predict'])
def test_a_segmentors_decode_head_adapts_and_its_auxiliary_head_does_not(mode):
    pytest.importorskip('mmseg')
    from mmengine.dataset import pseudo_collate
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS as SEGMENTORS
    from mmseg.structures import SegDataSample

    import mmseg_stylenorm  # noqa: F401

    init_default_scope('mmseg')
    norm = {'type': 'BN'}
    head = {'type': 'FCNHead', 'channels': 8, 'num_classes': 5, 'norm_cfg': norm, 'num_convs': 1}
    model = SEGMENTORS.build(
        ConfigDict(
            type='StyleNormEncoderDecoder',
            backbone={'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8, 'norm_cfg': norm},
            decode_head={**head, 'in_channels': 64, 'in_index': 3},
            auxiliary_head={**head, 'in_channels': 32, 'in_index': 2},
            data_preprocessor={'type': 'SegDataPreProcessor', 'mean': [0.0] * 3, 'std': [1.0] * 3},
            style={'type': 'padain', 'p': 1.0},
            train_cfg={},
            test_cfg={'mode': 'slide', 'crop_size': (32, 32), 'stride': (16, 16)},
        )
    )
    samples = []
    for size in (32, 32, 48):
        meta = {'img_shape': (size, size), 'ori_shape': (size, size), 'pad_shape': (size, size)}
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
        samples.append({'inputs': image, 'data_samples': SegDataSample(metainfo=meta)})
    adabn.adapt_model(model, torch.utils.data.DataLoader(samples, batch_size=3, collate_fn=pseudo_collate), mode=mode)
    tracked = {name: int(b) for name, b in model.named_buffers() if name.endswith('num_batches_tracked')}
    assert {n for name, n in tracked.items() if not name.startswith('auxiliary')} == {2}
    assert {n for name, n in tracked.items() if name.startswith('auxiliary')} == {0}
    assert model.decode_head.convs[0].bn.running_mean.abs().sum() > 0


def adapt_two(out, launcher):
    """What a process does: adapts while testing, and writes its statistics and its metric."""
    cfg = config(out, {'type': 'AdaBNHook', 'keep': True, 'batch_size': 5}, launcher=launcher)
    cfg.test_dataloader.dataset.count = 23
    distributed.prepare_cpu_distributed(cfg, launcher)
    runner = Runner.from_cfg(cfg)
    score = runner.test()['accuracy/top1']
    state = adabn.bare_model(runner.model).state_dict()
    torch.save({**state, 'score': torch.tensor(score)}, Path(out) / f'rank{os.environ.get("RANK", 0)}.pth')
    return state


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='checks the way without a GPU')
def test_two_processes_pool_what_one_sees(tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', __file__]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    (tmp_path / 'two').mkdir()
    line = [*command, str(tmp_path / 'two')]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f'two/rank{rank}.pth', weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    one = adapt_two(tmp_path, 'none')
    assert first['score'] == 100
    torch.testing.assert_close(first['norm.running_mean'], one['norm.running_mean'])
    torch.testing.assert_close(first['norm.running_var'], one['norm.running_var'], rtol=0.02, atol=0)
    assert first['unused.num_batches_tracked'] == 0


CONFIG = """
custom_imports = dict(imports=['timm_stylenorm.classification'])
default_scope = 'mmengine'
model = dict(type='ChannelNet')
test_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader['dataset'] = dict(type='BrightChannel', shifted=False)
test_cfg = dict()
test_evaluator = dict(type='TopK', topk=1)
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/adabn.py, in a folder with a config and a checkpoint."""
    monkeypatch.syspath_prepend(str(config_root().parent / 'tools'))
    monkeypatch.chdir(tmp_path)
    import adabn

    (tmp_path / 'c.py').write_text(CONFIG)
    torch.save({'meta': {'epoch': 3}, 'state_dict': ChannelNet().state_dict(), 'optimizer': {}}, 'net.pth')
    return adabn


def test_the_tool_writes_a_checkpoint_that_fits_the_other_domain(tool, tmp_path, capsys):
    other = ['--cfg-options', 'test_dataloader.dataset.shifted=True', '--test']
    results = tool.main(['c.py', 'net.pth', *other])
    assert results['before']['accuracy/top1'] < 50
    assert results['after']['accuracy/top1'] == 100
    assert 'wrote net_adabn.pth' in capsys.readouterr().out
    written = torch.load('net_adabn.pth', weights_only=True)
    assert set(written) == {'meta', 'state_dict'}
    assert written['meta']['epoch'] == 3
    assert written['meta']['adabn']['batch_size'] == 8
    source = torch.load('net.pth', weights_only=True)['state_dict']
    differ = {key for key, value in written['state_dict'].items() if not torch.equal(value, source[key])}
    assert differ == {'norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked'}
    assert not list(tmp_path.glob('*.part'))


def test_the_tool_overwrites_nothing_unasked(tool):
    tool.main(['c.py', 'net.pth', '--out', 'mine.pth', '--momentum', '0.5', '--max-batches', '1'])
    first = Path('mine.pth').read_bytes()
    with pytest.raises(SystemExit, match='--force'):
        tool.main(['c.py', 'net.pth', '--out', 'mine.pth'])
    assert Path('mine.pth').read_bytes() == first
    tool.main(['c.py', 'net.pth', '--out', 'mine.pth', '--force'])
    assert Path('mine.pth').read_bytes() != first
    with pytest.raises(SystemExit, match='no folder'):
        tool.main(['c.py', 'net.pth', '--out', 'nowhere/mine.pth'])


def test_the_tool_does_not_mix_domains(tool):
    Path('two.py').write_text(CONFIG + f'test_dataloader = {two_domains(8)}\n')
    with pytest.raises(SystemExit, match=r'2 domains \(clean, other\)'):
        tool.main(['two.py', 'net.pth'])
    assert not Path('net_adabn.pth').exists()


if __name__ == '__main__':
    adapt_two(sys.argv[1], 'pytorch')
