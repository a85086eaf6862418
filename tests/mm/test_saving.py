"""Checkpoints are complete or absent, and the old ones go after the new one is complete, whenever a run is killed."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')
import mmengine.runner
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import save_checkpoint
from tiny_runs import kill_in_write, start, status, train

from timm_stylenorm.checkpoints import atomic_write
from timm_stylenorm.patches import install_patches
from timm_stylenorm.runner import host

KINDS = pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])


def killed_while_writing(of, work_dir, **options):
    def run():
        kill_in_write(of)
        train(work_dir, **options)

    assert status(start(run)) == -signal.SIGKILL


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.suffix in ('.pth', '.part'))


def assert_same(left, right):
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name


@KINDS
def test_a_run_killed_while_saving_keeps_the_older_checkpoint_and_resumes_from_it_exactly(tmp_path, by_epoch):
    run = {'by_epoch': by_epoch, 'checkpoint': {'out_dir': str(tmp_path / 'store')}}
    names = [f'epoch_{k}.pth' if by_epoch else f'iter_{k}.pth' for k in ((3, 4, 6) if by_epoch else (2, 4, 6))]
    straight = train(tmp_path / 'straight', by_epoch=by_epoch).model
    killed_while_writing(names[1], tmp_path / 'killed', **run)
    store = tmp_path / 'store' / 'killed'
    assert [name for name in files(store) if name.endswith('.pth')] == names[:1]
    assert (tmp_path / 'killed/last_checkpoint').read_text() == str(store / names[0])
    assert torch.load(store / names[0])['meta']['iter'] == (6 if by_epoch else 2)
    resumed = train(tmp_path / 'killed', resume=True, **run)
    assert_same(straight, resumed.model)
    assert files(store) == names[2:]  # neither older ones nor the temporary file of the killed process


def test_the_best_checkpoint_stays_until_the_next_best_is_complete(tmp_path):
    run = {'checkpoint': {'save_best': 'acc'}}
    killed_while_writing('best_acc_iter_4.pth', tmp_path, **run)
    assert {'best_acc_iter_2.pth', 'iter_4.pth'} <= set(files(tmp_path))
    torch.load(tmp_path / 'best_acc_iter_2.pth')
    train(tmp_path, resume=True, **run)
    assert files(tmp_path) == ['best_acc_iter_6.pth', 'iter_6.pth']


def test_what_was_to_be_removed_when_a_run_was_killed_is_removed_by_the_next(tmp_path):
    def run():
        LocalBackend.remove = lambda self, path: os.kill(os.getpid(), signal.SIGKILL)
        train(tmp_path)

    assert status(start(run)) == -signal.SIGKILL
    assert files(tmp_path) == ['iter_2.pth', 'iter_4.pth']
    train(tmp_path, resume=True, stop=4)
    assert files(tmp_path) == ['iter_4.pth']


def test_subclasses_of_the_hook_and_published_files_are_included(tmp_path, monkeypatch):
    class Own(CheckpointHook):
        pass

    written = []
    monkeypatch.setattr(LocalBackend, 'put', lambda *args, put=LocalBackend.put: written.append(args[2]) or put(*args))
    monkeypatch.setattr(
        LocalBackend, 'remove', lambda *args, remove=LocalBackend.remove: written.append('removed') or remove(*args)
    )
    saving = {'type': Own, 'published_keys': ['meta', 'state_dict'], 'save_best': ['acc']}
    train(tmp_path, steps=4, checkpoint=saving)
    assert all(path == 'removed' or path.endswith('.part') for path in written)
    kinds = ['removed' if path == 'removed' else Path(path).name.split('_')[0] for path in written]
    assert kinds[:6] == ['.iter', '.best', '.iter', '.iter', 'removed', '.best']
    published = [name for name in files(tmp_path) if '-' in name]
    assert len(published) == 2
    assert all(set(torch.load(tmp_path / name)) <= {'meta', 'state_dict', 'stylenorm_types'} for name in published)


def test_a_full_disk_is_named_with_the_file_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    def put(self, obj, filepath):
        Path(filepath).write_bytes(obj[:10])
        if 'iter_4' in str(filepath):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        Path(filepath).write_bytes(obj)

    monkeypatch.setattr(LocalBackend, 'put', put)
    with pytest.raises(OSError, match=r'No space left.*iter_4\.pth'):
        train(tmp_path)
    assert files(tmp_path) == ['iter_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')


def test_last_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    noted = []

    def replace(source, target, replace=os.replace):
        if Path(target).name == 'last_checkpoint':
            noted.append(Path(source).read_text())
        replace(source, target)

    monkeypatch.setattr(os, 'replace', replace)
    train(tmp_path, steps=2)
    assert noted == [str(tmp_path / 'iter_2.pth')]


def test_other_stores_are_left_to_the_host(monkeypatch):
    class Store:
        kept = {}

        def put(self, obj, filepath):
            self.kept[filepath] = obj

    monkeypatch.setattr('mmengine.runner.checkpoint.get_file_backend', lambda *args, **kwargs: Store())
    monkeypatch.setattr('mmengine.runner.checkpoint.FileClient.infer_client', lambda *args: None)
    mmengine.runner.save_checkpoint({'state_dict': {}}, 's3://bucket/iter_1.pth')
    assert list(Store.kept) == ['s3://bucket/iter_1.pth']


def test_the_patches_wrap_once():
    before = (
        mmengine.runner.save_checkpoint,
        CheckpointHook._save_best_checkpoint,
        mmengine.runner.Runner.load_or_resume,
    )
    install_patches(host.PATCHES)
    assert before[0] is mmengine.runner.save_checkpoint is mmengine.runner.checkpoint.save_checkpoint
    assert before[0] is mmengine.runner.runner.save_checkpoint
    assert before[1:] == (CheckpointHook._save_best_checkpoint, mmengine.runner.Runner.load_or_resume)
    assert not hasattr(before[1].__wrapped__, '__wrapped__')


def test_a_file_is_written_through_links_with_the_usual_rights(tmp_path):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'link.pth').symlink_to(tmp_path / 'store' / 'real.pth')
    save_checkpoint({'state_dict': {}}, str(tmp_path / 'link.pth'))
    assert (tmp_path / 'link.pth').is_symlink()
    (tmp_path / 'plain').touch()
    assert (tmp_path / 'store/real.pth').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / 'a.json'
    file.write_text('old')

    def fail():
        with atomic_write(file) as part:
            part.write_text('new')
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('a.json', 'old')]


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing_in_the_end(tmp_path):
    run = {'steps': 200, 'checkpoint': {'save_best': 'acc'}}
    straight = train(tmp_path / 'straight', **run)
    dice = random.Random(0)
    for _ in range(10):
        child = start(train, tmp_path / 'killed', resume=True, **run)
        time.sleep(dice.uniform(0.3, 1.5))
        os.kill(child, signal.SIGKILL)
        status(child)
        if (tmp_path / 'killed/last_checkpoint').exists():
            torch.load((tmp_path / 'killed/last_checkpoint').read_text())
    resumed = train(tmp_path / 'killed', resume=True, **run)
    assert_same(straight.model, resumed.model)
    assert [name for name in files(tmp_path / 'killed') if not name.startswith('best')] == ['iter_200.pth']
