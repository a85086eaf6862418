"""timm_stylenorm/files.py: files are whole or absent, errors name them, and a folder belongs to one run at a time."""

import errno
import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from processes_of_tests import kill, python, small_disk, wait_for

from timm_stylenorm import files
from timm_stylenorm.files import LOCK, InUse, atomic_write, claimed, is_empty

CLAIM = """
import sys, time
from disk import claimed
with claimed(sys.argv[1], 'a test', 'go elsewhere'):
    print('claimed', flush=True)
    time.sleep(float(sys.argv[2]))
print('free', flush=True)
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(files, 'PATIENCE', 0.3)


@pytest.fixture
def other(tmp_path):
    """A process that has claimed the folder, until the test is over."""
    process = python('-c', CLAIM, tmp_path / 'out', 60)
    wait_for(process, 'claimed')
    yield process
    kill(process)


def ended_process():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def leftover(folder, pid, machine=None):
    file = folder / f'.a.png.{machine or files._machine()}-{pid}-0123abcd.part'
    file.write_text('half')
    return file


def write(file, text='new'):
    with atomic_write(file) as part:
        part.write_text(text)


def test_what_a_killed_process_left_goes_with_the_next_write_and_no_other(tmp_path):
    gone = leftover(tmp_path, ended_process()), leftover(tmp_path, os.getpid())
    kept = leftover(tmp_path, os.getppid()), leftover(tmp_path, ended_process(), 'elsewhere-1')
    assert is_empty(tmp_path)  # none of them is data
    write(tmp_path / 'a.txt')
    assert not any(file.exists() for file in gone)
    assert all(file.exists() for file in kept)
    assert not is_empty(tmp_path)


def test_two_processes_never_share_a_temporary_file(tmp_path):
    with atomic_write(tmp_path / 'a') as first, atomic_write(tmp_path / 'a') as second:
        assert first != second
        first.write_text('1')
        second.write_text('2')
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [('a', '1')]


@pytest.mark.parametrize('number', sorted(files.FULL))
def test_a_full_disk_is_told_with_the_file_and_its_room(tmp_path, number):
    def fail():
        with atomic_write(tmp_path / 'a.bin') as part:
            part.write_bytes(b'1' * 3_000_000)
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=r'while writing; the disk has room for \d+\.\d MB of it') as caught:
        fail()
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / 'a.bin'))
    assert not [*tmp_path.iterdir()]


def test_on_a_disk_that_is_full_the_old_file_stays(tmp_path):
    with small_disk(tmp_path / 'disk') as disk:
        write(disk / 'a.bin', 'old')
        with pytest.raises(OSError, match=r'No space left.*room for [12]\.\d MB of it.*a\.bin'):
            write(disk / 'a.bin', '1' * 3_000_000)
        assert [(path.name, path.read_text()) for path in disk.iterdir()] == [('a.bin', 'old')]
        with claimed(disk, 'a test'):
            assert (disk / LOCK).exists()


def test_errors_of_other_files_are_left_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match='elsewhere') as caught, atomic_write(tmp_path / 'a'):
        Path('elsewhere').read_text()
    assert caught.value.filename == 'elsewhere'


def test_a_folder_that_is_claimed_is_refused_to_another_process_with_who_has_it(tmp_path, other):
    with pytest.raises(InUse) as caught, claimed(tmp_path / 'out', 'a test', 'go elsewhere'):
        raise AssertionError
    text = str(caught.value)
    assert f'process {other.pid} on {socket.gethostname()} since' in text
    assert re.search(r'since \d{4}-\d\d-\d\d .*Wait until it ends, or go elsewhere$', text), text


def test_a_claim_is_of_the_folder_and_not_of_its_name(tmp_path, other):
    (tmp_path / 'link').symlink_to(tmp_path / 'out')
    with pytest.raises(InUse), claimed(tmp_path / 'link', 'a test'):
        raise AssertionError
    with claimed(tmp_path, 'a test'), claimed(tmp_path / 'out2', 'a test'):
        pass


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path, other):
    kill(other)
    assert (tmp_path / 'out' / LOCK).exists()
    with claimed(tmp_path / 'out', 'a test'):
        assert json.loads((tmp_path / 'out' / LOCK).read_text())['pid'] == os.getpid()
    assert [*tmp_path.iterdir()] == [tmp_path / 'out']
    assert not [*(tmp_path / 'out').iterdir()]


def test_a_claim_that_comes_too_early_waits_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'PATIENCE', 20)
    process = python('-c', CLAIM, tmp_path / 'out', 1)
    wait_for(process, 'claimed')
    with claimed(tmp_path / 'out', 'a test'):
        assert 'free' in process.stdout.read()


def test_forked_workers_do_not_keep_the_claim_of_a_process_that_was_killed(tmp_path):
    fork = "import os\n    if not os.fork():\n        time.sleep(60)\n        os._exit(0)\n    print('claimed'"
    process = python('-c', CLAIM.replace("print('claimed'", fork), tmp_path, 60)
    wait_for(process, 'claimed')
    (worker,) = map(int, Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split())
    kill(process)
    try:
        with claimed(tmp_path, 'a test'):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_what_the_owner_starts_shares_the_claim_and_does_not_end_it(tmp_path, other):
    with claimed(tmp_path / 'mine', 'a test'):
        with claimed(tmp_path / 'mine', 'a test'):
            pass
        assert python('-c', CLAIM, tmp_path / 'mine', 0).communicate()[0] == 'claimed\nfree\n'
        assert (tmp_path / 'mine' / LOCK).exists()
        call = 'import subprocess, sys; subprocess.run([sys.executable, "-c", *sys.argv[1:]])'
        within = python('-c', call, CLAIM, tmp_path / 'mine', 0)
        assert 'is in use by process' in within.communicate()[0]


def test_folders_that_a_claim_has_made_and_nobody_used_go_with_it(tmp_path):
    with claimed(tmp_path / 'a' / 'b', 'a test'):
        pass
    assert not [*tmp_path.iterdir()]
    with claimed(tmp_path / 'a' / 'b', 'a test'):
        (tmp_path / 'a' / 'file').touch()
    assert [*tmp_path.rglob('*')] == [tmp_path / 'a', tmp_path / 'a' / 'file']


class TestWithoutLocks:
    """On a file system that has none, the lock file tells."""

    @pytest.fixture(autouse=True)
    def _no_locks(self, monkeypatch):
        def lockf(handle, how):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(files.fcntl, 'lockf', lockf)

    @staticmethod
    def left_by(folder, pid, machine=None):
        (folder / LOCK).write_text(json.dumps({'machine': machine or files._machine(), 'pid': pid, 'since': 'May'}))

    def test_of_a_process_that_has_ended_is_taken_over(self, tmp_path):
        self.left_by(tmp_path, ended_process())
        with claimed(tmp_path, 'a test'):
            assert json.loads((tmp_path / LOCK).read_text())['pid'] == os.getpid()

    def test_of_a_process_that_runs_is_refused(self, tmp_path, other):
        self.left_by(tmp_path, other.pid)
        with pytest.raises(InUse, match=f'process {other.pid}'), claimed(tmp_path, 'a test'):
            raise AssertionError

    def test_of_another_machine_is_refused_and_says_what_to_delete(self, tmp_path):
        self.left_by(tmp_path, 1, 'elsewhere-1')
        with pytest.raises(InUse) as caught, claimed(tmp_path, 'a test'):
            raise AssertionError
        assert (
            f'If it does not run any more, for instance after a crash of that machine, delete {tmp_path / LOCK}'
            in str(caught.value)
        )
        (tmp_path / LOCK).unlink()
        with claimed(tmp_path, 'a test'):
            pass


ALONE = """
import os, sys, time
from disk import claimed, files
files.PATIENCE = 60
with claimed(sys.argv[1], 'a test'):
    place = sys.argv[1] + '/alone'
    os.close(os.open(place, os.O_CREAT | os.O_EXCL))
    time.sleep(0.02)
    os.unlink(place)
"""


def test_many_claims_at_once_are_given_one_after_the_other(tmp_path):
    processes = [python('-c', ALONE, tmp_path / 'out') for _ in range(6)]
    assert [process.communicate()[0] for process in processes] == [''] * 6
    assert {*tmp_path.rglob('*')} <= {tmp_path / 'out'}


def test_a_refusal_takes_no_longer_than_its_patience(tmp_path, other):
    begun = time.monotonic()
    with pytest.raises(InUse), claimed(tmp_path / 'out', 'a test'):
        raise AssertionError
    assert time.monotonic() - begun < 2
