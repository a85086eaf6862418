"""timm's checkpoints as its scripts write them in `launch`: whole or absent, whenever the script is killed."""

import errno
import os
import random
import re
import time
from pathlib import Path

import pytest
import test_launch
import torch
from processes_of_tests import alive, children, end_within, kill, python, wait_for
from timm.utils import CheckpointSaver

from timm_stylenorm import files
from timm_stylenorm.saver import safe_saving

KILLS = int(os.environ.get('STYLENORM_KILLS', 3))
LAUNCH = ('-m', 'timm_stylenorm.launch', '--style', 'padain', test_launch.TRAIN)
images = test_launch.folder  # a fixture


def held(path):
    return torch.load(path, weights_only=False)  # the script's arguments are in it


@pytest.fixture
def saver(tmp_path):
    """A saver of a model whose weight is the number of the epoch."""
    model = torch.nn.Linear(1, 1)

    def save(own, epoch, metric):
        with torch.no_grad():
            model.weight.fill_(epoch)
        return own.save_checkpoint(epoch, metric)

    with safe_saving():
        own = CheckpointSaver(
            model, torch.optim.SGD(model.parameters(), 0.1), checkpoint_dir=str(tmp_path), max_history=2
        )
        yield lambda epoch, metric: save(own, epoch, metric)


def epochs(folder):
    return {path.name.removesuffix('.pth.tar'): held(path)['epoch'] for path in folder.glob('*.pth.tar')}


def test_the_saver_keeps_what_timms_own_keeps(saver, tmp_path):
    for epoch, metric in enumerate([1.0, 3.0, 2.0]):
        saver(epoch, metric)
    assert epochs(tmp_path) == {'last': 2, 'model_best': 1, 'checkpoint-1': 1, 'checkpoint-2': 2}
    assert held(tmp_path / 'model_best.pth.tar')['state_dict']['weight'].item() == 1
    assert not [*tmp_path.glob('.*.part')]


@pytest.mark.parametrize('moment', range(20))
def test_no_moment_is_without_the_last_and_the_best_checkpoint(saver, tmp_path, monkeypatch, moment):
    saver(0, 1.0)
    calls = []

    def ending(name, own):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) == moment + 1:
                raise KeyboardInterrupt
            return own(*args, **kwargs)

        return call

    for name in ('unlink', 'remove', 'replace', 'link', 'fsync'):  # of which each changes what is on the disk
        monkeypatch.setattr(os, name, ending(name, getattr(os, name)))
    try:
        saver(1, 2.0)
        assert len(calls) <= moment
        expected = {'last': {1}, 'model_best': {1}}
    except KeyboardInterrupt:
        expected = {'last': {0, 1}, 'model_best': {0, 1}}
    monkeypatch.undo()
    found = epochs(tmp_path)
    assert all(found.get(name) in those for name, those in expected.items()), (calls, found)


def test_without_links_files_are_copied_whole(saver, tmp_path, monkeypatch):
    def link(*args):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', link)
    saver(0, 1.0)
    saver(1, 2.0)
    assert epochs(tmp_path) == {'last': 1, 'model_best': 1, 'checkpoint-0': 0, 'checkpoint-1': 1}


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(saver, tmp_path, monkeypatch):
    saver(0, 1.0)

    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, '_sync', full)
    with pytest.raises(OSError, match=r'No space left on device while writing; the disk has room .*tmp\.pth\.tar'):
        saver(1, 2.0)
    assert epochs(tmp_path) == {'last': 0, 'model_best': 0, 'checkpoint-0': 0}


@pytest.mark.slow
def test_two_runs_into_one_folder_the_second_is_refused(images, tmp_path):
    script = f'import sys, time; sys.path.insert(0, {str(files.__file__)!r}); from disk import claimed\n'
    first = python('-c', script + f"with claimed({str(tmp_path)!r}, 'a test'): print('claimed'); time.sleep(60)")
    wait_for(first, 'claimed')
    second = python(*LAUNCH, '--model', 'test_resnet', '--data-dir', images, '--output', tmp_path)
    text = second.communicate()[0]
    kill(first)
    assert second.returncode == 2, text
    assert re.search(rf'error: .* is in use by process {first.pid} .*choose another --output', text), text
    assert [path.name for path in tmp_path.iterdir()] == [files.LOCK]


RANK = """
import subprocess, sys
from pathlib import Path
Path(sys.argv[1], 'script.py').write_text("import time; print('begun', flush=True); time.sleep(60)")
subprocess.run([sys.executable, '-m', 'timm_stylenorm.launch', f'{sys.argv[1]}/script.py'])
"""


@pytest.mark.slow
def test_a_rank_ends_with_torchrun(tmp_path):
    process = python('-c', RANK, tmp_path, TORCHELASTIC_RUN_ID='1')
    wait_for(process, 'begun')
    started = children(process.pid)
    kill(process)
    assert not end_within(started, 5)


@pytest.mark.slow
def test_random_kills_leave_whole_checkpoints_from_which_the_script_goes_on(images, tmp_path):
    dice, out, steps = random.Random(0), tmp_path / 'out', 30
    last = out / 'last.pth.tar'

    def run():
        resume = ['--resume', last] if last.exists() else []
        line = ['--model', 'test_resnet', '--data-dir', images, '--output', out, '--epochs', steps, *resume]
        return python(*LAUNCH, *line)

    for moment in sorted(dice.sample(range(1, steps), KILLS)):
        process, begun = run(), time.monotonic()
        while not (last.exists() and held(last)['epoch'] >= moment - 1) and alive(process.pid):
            assert time.monotonic() - begun < 120
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        workers = children(process.pid)
        kill(process)
        assert not end_within(workers, 5)
        found = epochs(out)
        assert found['last'] >= moment - 1
        assert 'model_best' in found
        assert all(found[name] == int(name.partition('-')[2]) for name in found if '-' in name)
    process = run()
    text = process.communicate()[0]
    assert process.returncode == 0, text
    assert epochs(out)['last'] == steps - 1
    assert not [*Path(out).glob('.*.part')]
