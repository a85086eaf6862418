"""Every classification config builds and trains; the whole chain runs on a few generated images."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from expected import LONELY

pytest.importorskip('mmengine')

import benchmark_fashion_mnist
from bench import engine, plan, presets
from bench.arguments import FASHION_MNIST, words
from bench.names import TRAINED
from cli import load_config, parser
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS, EVALUATOR, MODELS
from mmengine.runner import Runner, load_checkpoint
from nets import THIN
from PIL import Image

import timm_stylenorm
from timm_stylenorm.runner.configs import config_root

pytestmark = LONELY

CONFIGS = sorted(path.name for path in (config_root() / 'classification').glob('*.py'))
FASHION = 'resnet18_1xb64-500_fashion-mnist.py'
STEPS = [(name, []) for name in CONFIGS]
STEPS += [pytest.param(FASHION, words(name, FASHION_MNIST), id=name) for name in TRAINED]


def load(name, *style):
    cfg = load_config(parser('').parse_args([f'classification/{name}', *style]))
    if cfg.model.get('pretrained'):
        cfg.model.pretrained = False
    if cfg.model.get('recipe', {}).get('styliser') == 'adain':
        cfg.model.recipe.styliser = 'pixel'  # the other one needs files; see test_recipe_configs
    return cfg


def size_of(cfg):
    large = ('imagenet' in cfg.filename or 'pacs' in cfg.filename) and 'debiased' not in cfg.filename
    return 64 if large else 32


@pytest.mark.parametrize('width', ['narrow', pytest.param('full', marks=pytest.mark.slow)])
@pytest.mark.parametrize(('name', 'style'), STEPS)
@pytest.mark.some(9)
def test_config_builds_and_its_model_takes_a_training_step(name, style, width):
    cfg = load(name, *style)
    cfg.model.update(THIN if width == 'narrow' else {})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    classes, size = cfg.model.num_classes, size_of(cfg)
    shape = (4, cfg.model.aug_splits, 3, size, size) if cfg.model.get('aug_splits') else (4, 3, size, size)
    data = dict(inputs=torch.randint(256, shape, dtype=torch.uint8), targets=torch.arange(4) % classes)
    trained = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    model.recipe.set_progress(0.0)
    log = model.train_step(data, wrapper)
    assert all(torch.isfinite(value) for value in log.values())
    assert all(not torch.equal(old, new) for old, new in zip(before, trained, strict=True) if old.ndim > 1)
    assert bool({'snr', 'irw'} & {*style, *re.findall('snr', name)}) == any(key.startswith('style.') for key in log)
    EVALUATOR.build(dict(type='Evaluator', metrics=cfg.test_evaluator))


def test_cifar_padain_acts_after_the_17_convolutions_of_the_authors():
    """Those that change their map in one forward: the stem and two in each of the eight blocks."""
    model = MODELS.build(load('resnet18_1xb128-200e_cifar100.py', '--style', 'padain', 'p=1').model).train()
    acted = []
    for name, module in model.net.named_modules():
        if name.endswith('style.padain'):
            place = name.partition('.style')[0]
            module.register_forward_hook(lambda m, x, y, place=place: acted.append((place, not torch.equal(x[0], y))))
    torch.manual_seed(0)
    model.net(torch.randn(16, 3, 32, 32))
    blocks = [f'layer{i}.{j}.conv{k}' for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)]
    assert acted == [(place, True) for place in ('conv1', *blocks)]


def test_bin_on_cifar_learns_its_gates_at_ten_times_the_rate_without_decay():
    cfg = load('resnet18_1xb128-164e_cifar100.py', '--style', 'bin')
    cfg.model.update(THIN)
    model = MODELS.build(cfg.model)
    gates = {p for name, p in model.named_parameters() if name.endswith('.gate')}
    assert len(gates) == 20
    for group in build_optim_wrapper(model, cfg.optim_wrapper).param_groups:
        of_gates = gates & set(group['params'])
        assert of_gates in (set(), set(group['params']))
        assert (group['lr'], group['weight_decay']) == ((1.0, 0.0) if of_gates else (0.1, 1e-4))


def test_pacs_keeps_the_batch_norm_statistics_and_trains_their_weights():
    model = MODELS.build(load('resnet18_1xb96-3k_pacs.py', '--style', 'ibn_a').model)
    before = {key: value.clone() for key, value in model.net.state_dict().items()}
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='SGD', lr=0.1)))
    data = dict(inputs=torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8), targets=torch.arange(4))
    for _ in range(2):
        model.eval()
        model.train().train_step(data, wrapper)
    after = model.net.state_dict()
    statistics = [key for key in after if 'running' in key or 'num_batches' in key]
    assert len(statistics) == 3 * 20
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    assert not torch.equal(before['layer1.0.bn2.weight'], after['layer1.0.bn2.weight'])


def test_the_step_of_the_pacs_baseline_is_that_of_the_summed_losses():
    """Of three domains' means, by SGD with the authors' lr 1e-3 and wd 1e-4."""
    cfg = load('resnet18_1xb96-3k_pacs.py')
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(3, 2, bias=False).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    wrapper = build_optim_wrapper(ours, cfg.optim_wrapper)
    optimizer = torch.optim.SGD(theirs.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    for _ in range(5):
        domains = torch.randn(3, 32, 3).double()
        wrapper.update_params(ours(domains.flatten(0, 1)).square().mean())
        optimizer.zero_grad()
        sum(theirs(domain).square().mean() for domain in domains).backward()
        optimizer.step()
        torch.testing.assert_close(ours.weight, theirs.weight)


def test_pacs_target_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv('PACS_TARGET', 'photo')
    cfg = load('resnet18_1xb96-3k_pacs.py', '--style', 'snr')
    assert cfg.train_dataloader.dataset.leave_out == cfg.val_dataloader.dataset.leave_out == ['photo']
    assert cfg.test_dataloader.dataset.domains == ['photo']


@pytest.mark.parametrize('name', [name for name in CONFIGS if 'fashion-mnist' not in name])
def test_the_readme_names_the_data_folder_of_a_config(name):
    cfg = load(name)
    roots = {loader.dataset.root for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)}
    assert roots == {cfg.data_root}
    assert re.search(rf'`{cfg.data_root}\b', (config_root().parent / 'docs/datasets.md').read_text())


def test_cifar100_is_downloaded_at_the_first_run(monkeypatch):
    asked = []
    monkeypatch.setattr(torchvision.datasets.CIFAR100, '_check_integrity', lambda self: bool(asked))
    monkeypatch.setattr(torchvision.datasets.CIFAR100, 'download', lambda self: asked.append(self.root))
    cfg = load('resnet18_1xb128-200e_cifar100.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        asked.clear()
        with pytest.raises(FileNotFoundError, match='cifar-100-python'):  # the download was a pretence
            DATASETS.build(loader.dataset)
        assert asked == ['data/cifar100']


def write_folders(root, parts):
    rng = np.random.default_rng(0)
    for part in parts:
        for k in range(2):
            folder = root / part / f'class{k}'
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(100, size=(32, 32, 3), dtype=np.uint8) + np.uint8(150 * k)
                Image.fromarray(pixels).save(folder / f'{i}.png')


def runner_config(cfg, tmp_path, iters):
    cfg.work_dir = str(tmp_path / 'work')
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=iters)
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor = dict(by_epoch=False)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=4, num_workers=0)
        loader.pop('persistent_workers', None)
    return cfg


def scalars(work_dir):
    lines = next(Path(work_dir).rglob('scalars.json')).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_runner_trains_with_mixup_and_logs_the_style_losses(tmp_path):
    write_folders(tmp_path, ('train', 'val'))
    cfg = runner_config(load('resnet50_4xb64-300e_imagenet.py'), tmp_path, iters=3)
    style = ['padain', dict(type='snr', num_classes=2)]
    cfg.model.update(model='resnet18', num_classes=2, style=style, label_smoothing=0.1, **THIN)
    cfg.model.data_preprocessor = dict(mixup=0.2, cutmix=1.0)
    cfg.optim_wrapper = dict(constructor='TimmOptimWrapperConstructor', optimizer=dict(opt='adamw', lr=1e-3))
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.update(root=str(tmp_path), transform=dict(input_size=32, is_training='train' in str(loader)))
    cfg.val_evaluator = cfg.test_evaluator = dict(type='TopK', topk=(1, 2))
    runner = Runner.from_cfg(cfg)
    runner.train()
    log = scalars(cfg.work_dir)
    assert {'loss_cls', 'style.snr.stage1', 'style.snr.stage3.ce'} <= log[0].keys()
    parts = sum(value for key, value in log[0].items() if key == 'loss_cls' or key.startswith('style.'))
    assert log[0]['loss'] == pytest.approx(parts, rel=1e-4)
    assert log[-1]['accuracy/top2'] == 100
    assert (Path(cfg.work_dir) / 'iter_3.pth').exists()


def test_the_runner_keeps_the_weights_that_training_starts_from(tmp_path):
    """Also through `init_weights`, which the Runner calls before the first iteration."""
    write_folders(tmp_path, ('train', 'val'))
    start = timm.create_model('resnet18', num_classes=2, **THIN)
    torch.save(start.state_dict(), tmp_path / 'start.pth')
    cfg = runner_config(load('resnet50_4xb64-300e_imagenet.py'), tmp_path, iters=1)
    cfg.model.update(model='resnet18', num_classes=2, init_checkpoint=str(tmp_path / 'start.pth'), **THIN)
    cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.update(root=str(tmp_path), transform=dict(input_size=32, is_training='train' in str(loader)))
    cfg.val_evaluator = cfg.test_evaluator = dict(type='TopK', topk=(1, 2))
    trained = Runner.from_cfg(cfg).train().net
    for name, value in start.named_parameters():
        assert torch.equal(trained.get_parameter(name), value), name


@pytest.mark.parametrize('name', [name for name in CONFIGS if 'pacs' in name])
def test_pacs_trains_and_validates_on_the_other_domains_and_tests_on_the_one_left_out(tmp_path, name):
    write_folders(tmp_path / 'PACS', ('art_painting', 'photo', 'sketch'))
    for domain in ('art_painting', 'photo'):
        for split, numbers in (('train', (0, 1, 2)), ('crossval', (3,))):
            lines = [f'{domain}/class{k}/{i}.png {k + 1}' for k in (0, 1) for i in numbers]
            (tmp_path / f'PACS/{domain}_{split}_kfold.txt').write_text('\n'.join(lines))
    cfg = runner_config(load(name), tmp_path, iters=2)
    cfg.model.update(THIN)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.update(root=str(tmp_path / 'PACS'), transform=[dict(type='Resize', size=(32, 32))])
    runner = Runner.from_cfg(cfg)
    runner.train()
    for loader, count in ((runner.train_dataloader, 6), (runner.val_dataloader, 2)):
        assert Counter(sample['domain'] for sample in loader.dataset) == {'art_painting': count, 'photo': count}
    best = scalars(cfg.work_dir)[-1]
    means = [best[f'accuracy/{domain}/top1'] for domain in ('art_painting', 'photo')]
    assert best['accuracy/mean_top1'] == pytest.approx(sum(means) / 2)
    assert len(list(Path(cfg.work_dir).glob('best_*'))) == 1
    metrics = runner.test()
    assert metrics['accuracy/sketch/top1'] == metrics['accuracy/top1']


def test_a_resumed_run_with_mixup_and_padain_gives_the_weights_of_an_unbroken_one(tmp_path):
    write_folders(tmp_path / 'images', ('train', 'val'))

    def train(work, iters, resume=False):
        cfg = runner_config(load('resnet50_4xb64-300e_imagenet.py'), tmp_path, iters)
        cfg.model.update(model='resnet18', num_classes=2, style=dict(type='padain', p=0.5), **THIN)
        cfg.model.data_preprocessor = dict(mixup=0.2, cutmix=1.0, erasing=0.5)
        cfg.train_dataloader.sampler.type = 'InfiniteSampler'
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.update(root=str(tmp_path / 'images'))
            loader.dataset.transform.update(input_size=32)
        cfg.val_evaluator = cfg.test_evaluator = dict(type='TopK', topk=1)
        cfg.update(work_dir=str(tmp_path / work), resume=resume)
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner.model.state_dict()

    unbroken = train('unbroken', 4)
    train('broken', 2)
    torch.rand(3), np.random.rand(3)  # noqa: NPY002 (a new process would not go on where the old one was)
    resumed = train('broken', 4, resume=True)
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)


def test_the_samplers_of_all_configs_exist():
    for name in CONFIGS:
        assert DATA_SAMPLERS.get(load(name).train_dataloader.sampler.type) is not None
        assert DATASETS.get(load(name).train_dataloader.dataset.type) is not None


def write_fashion(root, count=8):
    rng = np.random.default_rng(0)
    for prefix in ('train', 't10k'):
        for kind, array in (
            ('images-idx3', rng.integers(256, size=(count, 28, 28))),
            ('labels-idx1', np.arange(count)),
        ):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, '>u4').tobytes()
            (root / f'{prefix}-{kind}-ubyte').write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """Runs the benchmark on some images; returns its results."""
    write_fashion(tmp_path)

    def run(*words):
        folders = ['--data', str(tmp_path), '--work-dir', str(tmp_path / 'runs'), '--out', str(tmp_path / 'out')]
        return benchmark_fashion_mnist.main([*words, '--seeds', '0', *folders])

    return run


@pytest.mark.slow
def test_the_benchmark_repeats_nothing_and_writes_table_and_picture(tmp_path, benchmark, capsys, monkeypatch):
    call = ['--methods', 'baseline', 'snr', '--iters', '1']
    found = benchmark(*call)
    assert [result['method'] for result in found] == ['baseline', 'snr']
    assert list(found[0]['scores'])[:2] == ['clean', 'contrast']
    said = capsys.readouterr().out
    assert '| test images | baseline | snr |' in said
    assert '| all shifts | ' in said
    assert (tmp_path / 'out.png').stat().st_size > 10000
    assert json.loads((tmp_path / 'out.json').read_text())['results'] == found
    monkeypatch.setattr(engine, 'start', lambda *_, **__: pytest.fail('trained again'))
    assert benchmark(*call) == found


@pytest.mark.slow
def test_fine_tuning_starts_from_the_baseline_of_its_seed(tmp_path, benchmark):
    method = 'advbn:lower=frozen,steps=1'
    benchmark('--fine-tune', '1', '--methods', 'baseline', method, '--iters', '2')
    study = presets.fashion_mnist([method], 2, 1, str(tmp_path))
    start, run = plan.plan(study, [0], tmp_path / 'runs')
    assert run.start == start
    assert (run.cfg.optim_wrapper.optimizer.lr, run.cfg.train_cfg.max_iters) == (pytest.approx(0.005), 1)
    assert (run.cfg.model.recipe.lower, run.cfg.model.recipe.steps) == ('frozen', 1)
    weights = start.folder / 'iter_2.pth'
    assert f'Load checkpoint from {weights}' in (run.folder / 'log.txt').read_text()
    model = MODELS.build(run.cfg.model)
    load_checkpoint(model, str(weights))
    held = dict(model.named_buffers())
    assert torch.equal(held['net.layer2.0.bn1.aux_bn.running_mean'], held['net.layer2.0.bn1.bn.running_mean'])


@pytest.mark.parametrize('method', TRAINED)
def test_the_benchmark_has_a_config_for_every_method(method, monkeypatch):
    monkeypatch.setattr(plan, 'check_data', lambda *_: None)
    model = MODELS.build({**plan.config_of(presets.fashion_mnist([method]).rows[method]).model, **THIN})
    wanted = {'advbn': {'advbn', 'dual_bn'}, 'debiased': {'dual_bn'}}.get(method, {method})
    assert {label.split('.')[0] for label, _ in timm_stylenorm.style_layers(model)} == wanted
