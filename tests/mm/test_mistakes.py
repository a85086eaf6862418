"""A user's mistake ends every tool with `error: ...`, status 2 and no traceback; a bug keeps its traceback."""

import errno
import logging
import re
import resource
import sys

import mistakes
import pytest
import torch

pytest.importorskip('mmengine')
import stylenorm
import wrong_invocations
from mmengine.registry import MODELS

from timm_stylenorm.methods import get_method


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
    """The folder of the mistakes."""
    root = tmp_path_factory.mktemp('mistakes')
    wrong_invocations.fill(root)
    return root


@pytest.fixture
def ends(workspace, monkeypatch, capsys):
    """What a command line that must fail says, and its exit status."""
    monkeypatch.chdir(workspace)
    monkeypatch.setattr(sys, 'argv', ['stylenorm'])
    monkeypatch.setattr(logging, 'raiseExceptions', False)  # of mmengine's loggers, whose stream was another test's

    def run(line):
        try:
            status = stylenorm.main(line.split())
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().err

    return run


def held(folder):
    """What lies in it but for what runs and trainings begin with."""
    return {path.name for path in folder.iterdir()} - {'work_dirs', 'new'}


@pytest.mark.parametrize(('line', 'message'), wrong_invocations.ROWS, ids=[line for line, _ in wrong_invocations.ROWS])
@pytest.mark.some(59)
def test_a_mistake_is_told_and_ends_with_status_2(ends, workspace, line, message):
    before = held(workspace)
    status, said = ends(line)
    assert status == 2, said
    assert re.search(message, said, re.S), said
    assert 'error: ' in said
    assert 'Traceback' not in said
    assert not re.search(r"unknown [\w ]+ ''|Known: \.|None is not", said), said
    assert held(workspace) == before


@pytest.mark.parametrize('tool', sorted({tool.script for tool in stylenorm.COMMANDS.values()}))
def test_every_tool_has_mistakes_in_the_table(tool):
    lines = [line.split() for line, _ in wrong_invocations.ROWS]
    assert tool in {stylenorm.COMMANDS[name].script for name in map(stylenorm.find, lines) if name}


def test_a_full_disk_is_told_with_the_file(ends, workspace):
    """The limit on the size of files stands for it; torch's writer tells no error number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        said = [ends(f'convert weights.pth full{suffix}') for suffix in ('.pth', '.safetensors')]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for (status, text), suffix in zip(said, ('.pth', '.safetensors'), strict=True):
        assert status == 2, text
        assert text.startswith(f'error: full{suffix}: '), text
        assert not list(workspace.glob('*full*'))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_says_of_a_file_is_told_in_one_line(number, capsys):
    @mistakes.command
    def main(argv=None):
        raise OSError(number, 'reason', 'a.pth')

    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, str(end.value)) == (2, 'a.pth: reason')
    assert capsys.readouterr().err == 'error: a.pth: reason\n'


def broken_lookup():
    return {}['absent']


def broken_number():
    return int('many')


def broken_call():
    return stylenorm.find()


def broken_assertion():
    raise AssertionError('ours')


def broken_library():
    torch.zeros(2) + torch.zeros(3)


def broken_build():
    MODELS.build({'type': 'Broken'})


@MODELS.register_module(name='Broken')
class Broken:
    def __init__(self):
        self.helper(size=3)

    def helper(self):
        """Takes no size."""


@MODELS.register_module(name='Sized')
class Sized:
    def __init__(self, size):
        self.size = size


def broken_import():
    import absent_package  # noqa: F401


def broken_part_of_a_host():
    import mmengine.absent  # noqa: F401


BUGS = [broken_lookup, broken_number, broken_call, broken_assertion, broken_library, broken_build]
BUGS += [broken_import, broken_part_of_a_host]
ERRORS = (LookupError, ValueError, TypeError, AssertionError, RuntimeError, ImportError)


@pytest.mark.parametrize('bug', BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_keeps_its_traceback(bug):
    main = mistakes.command(lambda argv: bug())
    with pytest.raises(ERRORS):
        main([])


class Loaded(torch.utils.data.Dataset):
    """Fails as its argument says."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.fail()


def test_a_mistake_that_a_worker_meets_is_told_as_any_other_and_so_is_a_bug(capsys):
    def main_of(fail):
        return mistakes.command(lambda argv: next(iter(torch.utils.data.DataLoader(Loaded(fail), num_workers=1))))

    with pytest.raises(SystemExit, match="unknown style method 'padian'"):
        main_of(lambda: get_method('padian'))([])
    assert capsys.readouterr().err.startswith("error: unknown style method 'padian'; did you mean")
    with pytest.raises(ValueError, match='Original Traceback'):
        main_of(broken_number)([])


def test_a_host_that_is_not_installed_is_told_with_what_brings_it(capsys):
    def absent(argv):
        raise ModuleNotFoundError("No module named 'mmseg'", name='mmseg')

    with pytest.raises(SystemExit):
        mistakes.command(absent)([])
    assert capsys.readouterr().err.startswith("error: mmseg is not installed: pip install 'stylenorm[mmseg]' for")


def test_an_argument_that_a_class_of_a_config_does_not_take_is_a_mistake():
    for cfg in ({'type': 'Broken', 'size': 3}, {'type': 'Sized'}):
        main = mistakes.command(lambda argv, cfg=cfg: MODELS.build(cfg))
        with pytest.raises(SystemExit, match=r"unexpected keyword argument 'size'|missing 1 required"):
            main([])
