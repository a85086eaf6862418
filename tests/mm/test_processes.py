"""What a tool has started ends with it, its folder is its own, and a full disk is named and costs nothing."""

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import prepare_gta5
import processes
import pytest
from ends import status_of
from PIL import Image
from processes_of_tests import children, end_within, kill, python, small_disk, wait_for

from timm_stylenorm import files
from timm_stylenorm.files import InUse, claimed

pytest.importorskip('mmengine')
from mmengine.config import Config
from mmengine.runner import Runner
from tiny_runs import config, start, status, train

SECONDS = 5  # in which processes end


def write_pairs(root, count=6, size=(20, 30)):
    """Pairs in GTA5's layout, of noise, which does not compress."""
    rng = np.random.default_rng(0)
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True)
    for k in range(count):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / f'images/{k:05d}.png')
        Image.fromarray(rng.integers(0, 35, size, np.uint8)).save(root / f'labels/{k:05d}.png')


def kill_and_look(process, count):
    """Kills a process that has started others; those of them that run on."""
    until = time.monotonic() + 60
    while len(started := children(process.pid)) < count and time.monotonic() < until:
        time.sleep(0.05)
    assert len(started) >= count, process.stdout.read()
    kill(process)
    return end_within(started, SECONDS)


POOL = """
import sys, time
from labels.pairs import run_parallel
if __name__ == '__main__':
    list(run_parallel(time.sleep, [60] * 4, 2, 'naps'))
"""


def test_busy_workers_of_a_converter_end_with_it(tmp_path):
    (tmp_path / 'pool.py').write_text(POOL)
    assert not kill_and_look(python(tmp_path / 'pool.py'), 2)


def test_idle_workers_of_a_converter_end_with_it(tmp_path):
    script = "import time, processes; p = processes.pool(2); [p.submit(time.sleep, 0.5) for _ in 'ab']; time.sleep(60)"
    process = python('-c', script)
    while len(children(process.pid)) < 2:
        time.sleep(0.05)
    time.sleep(1)  # they now wait for work
    assert not kill_and_look(process, 2)


@pytest.mark.parametrize('tool', ['prepare_gta5.py', pytest.param('prepare_toy_streets.py', marks=pytest.mark.slow)])
def test_workers_of_a_tool_end_with_it_and_the_next_run_may_begin_at_once(tmp_path, tool):
    if tool == 'prepare_gta5.py':
        write_pairs(tmp_path / 'out', 30, (200, 300))
    line = [processes.__file__.replace('processes.py', tool), tmp_path / 'out', '--workers', 2]
    line += ['--train', 12, '--val', 2] if 'toy' in tool else []
    process = python(*line)
    wait_for_file(tmp_path / 'out', '*labelTrainIds.png')
    assert not kill_and_look(process, 2)
    again = python(*line)
    text = again.communicate()[0]
    assert again.returncode == 0, text
    assert ('already there' if 'gta5' in tool else 'drawn now') in text


def wait_for_file(folder, pattern):
    until = time.monotonic() + 60
    while not [*folder.rglob(pattern)]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_tool_and_what_it_starts_end_with_the_tool_that_started_it(tmp_path):
    call = "run([sys.executable, 'prepare_toy_streets.py', sys.argv[1], '--train', '5000', '--workers', '2'])"
    tools = Path(processes.__file__).parent
    process = python('-c', f'import sys; from processes import run; {call}', tmp_path / 'out', cwd=tools)
    assert not kill_and_look(process, 3)


TORCHRUN = """
import os, subprocess, sys, time
from mistakes import command
@command
def main(argv=None):
    print('rank', flush=True)
    time.sleep(60)
if len(sys.argv) > 1:
    main()
subprocess.run([sys.executable, __file__, 'rank'], env={**os.environ, 'TORCHELASTIC_RUN_ID': '1'})
"""


def test_ranks_end_with_torchrun(tmp_path):
    (tmp_path / 'run.py').write_text(TORCHRUN)
    process = python(tmp_path / 'run.py')
    wait_for(process, 'rank')
    assert not kill_and_look(process, 1)


LOADER = """
import numpy as np, torch
from mmengine.runner import Runner
import timm_stylenorm.runner
class Big(torch.utils.data.Dataset):
    def __len__(self): return 1000
    def __getitem__(self, index): return np.zeros(1_000_000, np.uint8)
loader = dict(dataset=Big(), batch_size=2, num_workers=2, collate_fn=dict(type='pseudo_collate'),
              sampler=dict(type='DefaultSampler', shuffle=False))
iterator = iter(Runner.build_dataloader(loader, seed=0))
next(iterator)
print('loaded', flush=True)
import time
time.sleep(60)
"""


@pytest.mark.slow
def test_workers_of_a_runners_loader_end_with_it_even_if_nobody_takes_what_they_load():
    process = python('-c', LOADER)
    wait_for(process, 'loaded')
    assert not kill_and_look(process, 2)


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(files, 'PATIENCE', 0.2)


HOLD = (
    "import sys, time; from disk import claimed\nwith claimed(sys.argv[1], 'a test'): print('claimed'); time.sleep(60)"
)


@pytest.fixture
def hold(_impatient):
    """`hold(folder)`: a process that has claimed it, until the test is over."""
    begun = []

    def run(folder):
        begun.append(python('-c', HOLD, folder))
        wait_for(begun[-1], 'claimed')
        return begun[-1]

    yield run
    for process in begun:
        kill(process)


def test_a_second_training_in_a_work_dir_is_refused(tmp_path, hold):
    first = hold(tmp_path / 'run')
    with pytest.raises(InUse, match=f'in use by process {first.pid} .*choose another work_dir'):
        train(tmp_path / 'run')
    assert not [*(tmp_path / 'run').rglob('*.pth')]
    kill(first)
    train(tmp_path / 'run')
    assert not (tmp_path / 'run' / files.LOCK).exists()


def test_no_other_run_replaces_the_config_of_a_training(tmp_path, hold):
    first = hold(tmp_path / 'run')
    cfg = config(tmp_path / 'run')
    cfg.dump(tmp_path / 'of_the_training.py')
    Runner.from_cfg(Config.fromfile(tmp_path / 'of_the_training.py'))
    assert not [*(tmp_path / 'run').glob('*.py')]
    kill(first)
    Runner.from_cfg(Config.fromfile(tmp_path / 'of_the_training.py'))
    assert [*(tmp_path / 'run').glob('*.py')] == [tmp_path / 'run' / 'of_the_training.py']


def test_trainings_that_save_into_one_folder_elsewhere_are_refused_too(tmp_path, hold):
    hold(tmp_path / 'store' / 'run')
    with pytest.raises(InUse):
        train(tmp_path / 'run', checkpoint={'out_dir': str(tmp_path / 'store')})
    train(tmp_path / 'other', checkpoint={'out_dir': str(tmp_path / 'store')})


def test_all_ranks_hear_that_a_work_dir_is_taken(tmp_path, monkeypatch):
    from timm_stylenorm.runner import claiming

    def other_rank(answer):
        answer[0] = 'taken'

    monkeypatch.setattr(claiming, 'is_main_process', lambda: False)
    monkeypatch.setattr(claiming, 'broadcast_object_list', other_rank)
    with pytest.raises(InUse, match='taken'):
        train(tmp_path)


def test_the_train_tool_refuses_before_it_writes_anything(tmp_path, hold, capsys):
    import train as tool

    hold(tmp_path / 'run')
    config = 'classification/resnet18_1xb64-500_fashion-mnist.py'
    data = Path(processes.__file__).parent  # a folder that is there
    options = [f'{part}.dataset.root={data}' for part in ('train_dataloader', 'val_dataloader')]
    assert status_of(tool.main, [config, '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]) == 2
    assert re.search(r'error: .*run is in use by process \d+ .*choose another --work-dir', capsys.readouterr().err)
    assert [path.name for path in (tmp_path / 'run').iterdir()] == [files.LOCK]


def test_a_second_converter_is_refused(tmp_path, hold, capsys):
    write_pairs(tmp_path)
    hold(tmp_path)
    assert status_of(prepare_gta5.main, [str(tmp_path), '--workers', '1']) == 2
    assert 'two runs of a converter at once' in capsys.readouterr().err
    assert not [*tmp_path.glob('labels/*_labelTrainIds.png')]


CLAIMING = {  # tool: arguments; {} is the folder that is taken
    'benchmark_adaptation': ['--work-dir', '{}'],
    'benchmark_fashion_mnist': ['--work-dir', '{}', '--methods', 'baseline'],
    'benchmark_methods': ['--work-dir', '{}', '--methods', 'baseline'],
    'demo': ['--out', '{}'],
    'prepare_toy_streets': ['{}', '--train', '1', '--val', '1', '--workers', '1'],
}


@pytest.mark.parametrize('tool', CLAIMING)
def test_other_tools_have_their_folder_to_themselves(tmp_path, hold, capsys, tool):
    first = hold(tmp_path / 'out')
    arguments = [word.format(tmp_path / 'out') for word in CLAIMING[tool]]
    main = __import__(tool).main
    assert status_of(main, arguments) == 2
    assert f'in use by process {first.pid}' in capsys.readouterr().err


def test_a_converter_on_a_full_disk_names_the_file_keeps_what_it_has_and_goes_on(tmp_path, capsys):
    with small_disk(tmp_path / 'disk', '2m') as disk:
        write_pairs(disk / 'gta5', 20, (100, 150))
        filler = disk / 'filler'
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        filler.write_bytes(b'1' * (free - 60_000))
        line = [str(disk / 'gta5'), '--workers', '2', '--skip-bad']
        assert status_of(prepare_gta5.main, line) == 2
        text = capsys.readouterr().err
        assert re.search(r'error: .*labelTrainIds\.png: No space left on device .*room for 0\.\d MB of it', text), text
        done = sorted((disk / 'gta5/labels').glob('*_labelTrainIds.png'))
        assert 0 < len(done) < 20
        assert all(Image.open(file).load() for file in done)
        assert not [*disk.rglob('*.part')]
        assert not (disk / 'gta5/splits/good.txt').exists()
        filler.unlink()
        assert prepare_gta5.main(line) == 0
        report = json.loads((disk / 'gta5/prepare_report.json').read_text())
        assert report['counts'] == {'already there': len(done), 'converted': 20 - len(done)}
        assert len((disk / 'gta5/splits/good.txt').read_text().split()) == 20


def test_a_training_on_a_full_disk_names_the_file_and_is_resumed_from_the_last_whole_checkpoint(tmp_path):
    whole = train(tmp_path / 'whole', steps=20).model.state_dict()
    with small_disk(tmp_path / 'disk', '160k') as disk:
        keep = {'checkpoint': {'max_keep_ckpts': -1}, 'steps': 20}
        with pytest.raises(OSError, match='No space left on device while writing; the disk has room') as caught:
            train(disk / 'run', **keep)
        assert Path(caught.value.filename).suffix in ('.pth', '.json'), caught.value
        left = sorted((disk / 'run').glob('*.pth'))
        assert left
        assert not [*disk.rglob('*.part')]
        for file in left[:-1]:
            if file != Path((disk / 'run/last_checkpoint').read_text()):
                file.unlink()
        resumed = train(disk / 'run', resume=True, steps=20).model.state_dict()
    assert all((whole[name] == value).all() for name, value in resumed.items())


def test_a_log_of_scalars_on_a_full_disk_is_named(tmp_path):
    from mmengine.visualization import LocalVisBackend

    with small_disk(tmp_path / 'disk', '16k') as disk:
        backend = LocalVisBackend(str(disk))
        backend.add_scalar('loss', 1.0)
        with pytest.raises(OSError, match=r"No space left on device while writing; .*scalars\.json'"):
            [backend.add_scalar('loss' * 100, 1.0) for _ in range(100)]


def test_a_text_log_on_a_full_disk_is_told_of_once_and_the_training_goes_on(tmp_path, capsys):
    import logging

    from timm_stylenorm.runner.terminal import QuietRunner

    with small_disk(tmp_path / 'disk', '16k') as disk:
        runner = QuietRunner.__new__(QuietRunner)
        vars(runner).update(_log_dir=str(disk), _timestamp='now', _experiment_name=f'full_{os.getpid()}')
        logger = runner.build_logger()
        (log,) = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        for _ in range(200):
            log.handle(logging.makeLogRecord({'msg': 'x' * 200, 'levelno': logging.INFO}))
        logger.removeHandler(log)
        with contextlib.suppress(OSError):
            log.close()
    assert capsys.readouterr().err.count('No space left on device while writing the log') == 1


def test_predictions_and_labels_on_a_full_disk_are_named_and_none_is_half_there(tmp_path):
    pytest.importorskip('mmseg')
    import make_pseudo_labels
    import torch

    from mmseg_stylenorm.evaluation.predictions import save_prediction

    args = make_pseudo_labels.parse_args(['c', 'k', 'o', '--soft', '--stride', '1'])
    with small_disk(tmp_path / 'disk', '100k') as disk:

        def label(k):
            make_pseudo_labels.write(torch.randn(19, 40, 40), disk / f'{k}_soft.npz', None, args)

        def prediction(k):
            data = torch.randint(0, 19, (1, 100, 200))
            save_prediction({'pred_sem_seg': {'data': data}, 'img_path': f'/{k}.png'}, str(disk), None)

        for write, kind in ((label, 'npz'), (prediction, 'png')):
            with pytest.raises(OSError, match=rf'No space left on device while writing; .*\.{kind}'):
                [write(k) for k in range(30)]
            assert not [*disk.rglob('*.part')]
            whole = list(disk.rglob(f'*.{kind}'))
            assert whole
            assert all(make_pseudo_labels.is_whole(file, np.arange(19)) for file in whole)
            [file.unlink() for file in whole]


def test_the_config_of_a_run_is_never_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: 1 / 0))
    file = tmp_path / 'config.py'
    file.write_text('a = 1\n')
    with pytest.raises(ZeroDivisionError):
        Config({'a': 2}).dump(file)
    assert file.read_text() == 'a = 1\n'


def test_a_run_that_was_killed_can_be_resumed_at_once(tmp_path):
    def run():
        with claimed(tmp_path, 'a test'):
            os.kill(os.getpid(), 9)

    assert status(start(run)) == -9
    begun = time.monotonic()
    with claimed(tmp_path, 'a test'):
        assert time.monotonic() - begun < 1
    assert 'tools' in sys.modules['disk'].__file__
