"""Runs that are killed at random moments: nothing half-written is taken for whole, and in the end nothing has changed.

`STYLENORM_KILLS=10` kills each of them ten times; by default it is fewer, so that a test takes about a minute.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import prepare_gta5
import pytest
from PIL import Image
from test_processes import write_pairs

pytest.importorskip('mmseg')
import benchmark_fashion_mnist
import make_pseudo_labels
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from processes_of_tests import alive, children, end_within
from test_classification_configs import write_fashion
from test_uda_configs import write_pictures
from test_uda_pseudo_labels import FADA
from tiny_runs import start, status, train

from mmseg_stylenorm.uda.pseudo_labels import read_soft
from timm_stylenorm.runner.configs import config_root

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get('STYLENORM_KILLS', 5))


def kill_at_random(run, progress, of, check, seed):
    """Starts a run again and again, and kills it `KILLS` times while it works.

    Args:
        run: A function without arguments, for a process of its own.
        progress: How many of its steps are on the disk.
        of: So many there are in the end.
        check: Called after each kill.
        seed: Of the moments: after some step, and some milliseconds.
    """
    dice = random.Random(seed)
    moments = sorted(dice.sample(range(of), KILLS)) if of >= KILLS else [dice.randrange(of) for _ in range(KILLS)]
    for moment in moments:
        child, begun = start(run), time.monotonic()
        while progress() < moment and alive(child):
            assert time.monotonic() - begun < 300
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.2))
        workers = children(child)
        os.kill(child, signal.SIGKILL)
        assert status(child) in (-signal.SIGKILL, 0)
        assert not end_within(workers, 5)
        check()


def content(folder, pattern):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob(pattern))}


def test_conversion(tmp_path):
    pairs = 60
    for name in ('whole', 'killed'):
        write_pairs(tmp_path / name, pairs, (300, 400))
    line = ['--workers', '2', '--skip-bad']
    assert prepare_gta5.main([str(tmp_path / 'whole'), *line]) == 0
    whole, killed, labels = tmp_path / 'whole', tmp_path / 'killed', '*_labelTrainIds.png'
    expected = content(whole, labels)

    def check():
        found = content(killed, labels)
        assert found.items() <= expected.items()
        for file in ('splits/good.txt', 'prepare_report.json'):
            if (killed / file).exists():  # of a run that was through before it was killed
                assert file != 'splits/good.txt' or (killed / file).read_text() == (whole / file).read_text()
                assert file != 'prepare_report.json' or json.loads((killed / file).read_text())['pairs'] == pairs

    kill_at_random(
        lambda: prepare_gta5.main([str(killed), *line]), lambda: len([*killed.rglob(labels)]), pairs, check, seed=0
    )
    assert prepare_gta5.main([str(killed), *line]) == 0
    assert content(killed, labels) == expected
    assert (killed / 'splits/good.txt').read_text() == (whole / 'splits/good.txt').read_text()
    assert not [*killed.rglob('.stylenorm.lock')]


@pytest.mark.parametrize('kind', ['soft', 'hard'])
def test_pseudo_labels(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    images = 30
    write_pictures(tmp_path / 'data/toy_streets', count=images)
    init_default_scope('mmseg')
    torch.save({'state_dict': MODELS.build(Config.fromfile(config_root() / FADA).model).state_dict()}, 'teacher.pth')
    options = ['test_dataloader.num_workers=1', 'test_dataloader.persistent_workers=False', 'log_level=ERROR']

    def run(out):
        soft = ['--soft', '--stride', '1'] if kind == 'soft' else []
        line = [FADA, 'teacher.pth', out, *soft, '--work-dir', 'work', '--cfg-options', *options]
        return make_pseudo_labels.main(line)

    suffix = make_pseudo_labels.SUFFIXES[kind]
    assert len(run('whole')) == images
    expected = content(Path('whole'), f'*{suffix}')

    def check():
        assert content(Path('killed'), f'*{suffix}').items() <= expected.items()
        for file in Path('killed').rglob('*_soft.npz'):
            read_soft(file, 19)
        for file in Path('killed').rglob('*_pseudo.png'):
            Image.open(file).load()

    kill_at_random(lambda: run('killed'), lambda: len([*Path('killed').rglob(f'*{suffix}')]), images, check, seed=1)
    run('killed')
    assert content(Path('killed'), f'*{suffix}') == expected


def test_comparison(tmp_path):
    write_fashion(tmp_path, count=10)

    def run(folder):
        line = ['--methods', 'baseline', 'padain', '--seeds', '0', '1', '--iters', '3', '--data', str(tmp_path)]
        return benchmark_fashion_mnist.main([*line, '--jobs', '1', '--work-dir', str(folder)])

    def scores(folder):
        return {file.parent.name: json.loads(file.read_text())['scores'] for file in folder.glob('*/*/result.json')}

    run(tmp_path / 'whole')
    expected = scores(tmp_path / 'whole')
    assert len(expected) == 4

    def check():
        assert scores(tmp_path / 'killed').items() <= expected.items()

    kill_at_random(lambda: run(tmp_path / 'killed'), lambda: len(scores(tmp_path / 'killed')), 4, check, seed=2)
    run(tmp_path / 'killed')
    assert scores(tmp_path / 'killed') == expected


@pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
def test_training(tmp_path, by_epoch):
    steps = 100
    run = {'steps': steps, 'by_epoch': by_epoch, 'checkpoint': {'save_best': 'acc'}}
    whole = train(tmp_path / 'whole', **run).model.state_dict()
    note = tmp_path / 'killed/last_checkpoint'

    def progress():
        return int(Path(note.read_text()).stem.rpartition('_')[2]) if note.exists() else 0

    def check():
        if note.exists():
            assert torch.load(note.read_text())['meta']['iter'] > 0
        for file in (tmp_path / 'killed').glob('*.pth'):
            torch.load(file)

    kill_at_random(lambda: train(tmp_path / 'killed', resume=True, **run), progress, steps, check, seed=3)
    resumed = train(tmp_path / 'killed', resume=True, **run).model.state_dict()
    for name, value in whole.items():
        assert np.array_equal(value, resumed[name]), name
