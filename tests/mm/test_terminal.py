"""What the tools' Runner shows, and what it only writes to its log file."""

import logging
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmengine')
import tiny_runs
from mmengine.logging import MMLogger

from timm_stylenorm.runner.terminal import FILE_ONLY, QuietRunner, TerminalFilter, each_line_once


@pytest.fixture
def run(tmp_path, capsys):
    """A short training: its terminal, and its log file."""
    cfg = tiny_runs.config(tmp_path / 'run', log_level='INFO')
    cfg.filename = str(tmp_path / 'tiny.py')
    QuietRunner.from_cfg(cfg).train()
    (log,) = (tmp_path / 'run').rglob('*.log')
    return capsys.readouterr().out, log


@pytest.mark.parametrize('start', FILE_ONLY)
def test_environment_config_and_hooks_are_in_the_log_file_only(run, start):
    shown, log = run
    assert log.read_text().count(start) == 1
    assert start not in shown


def test_the_terminal_has_what_the_run_does_and_names_the_log_file(run):
    shown, log = run
    assert f'environment, config and hooks: {log}' in shown
    assert 'acc: 5.0000' in shown
    assert len(shown.splitlines()) < 20 < len(log.read_text().splitlines())


def test_a_warning_is_shown_once_in_a_process_and_written_to_every_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TerminalFilter, 'shown', set())
    for name in 'ab':
        cfg = tiny_runs.config(tmp_path / name, log_level='INFO')
        logger = QuietRunner.from_cfg(cfg).logger
        logger.warning('the sky is falling')
        logger.error('it has fallen')
    shown = capsys.readouterr().out
    assert (shown.count('the sky is falling'), shown.count('it has fallen')) == (1, 2)
    assert all('the sky is falling' in Path(log).read_text() for log in tmp_path.rglob('*.log'))


def test_results_are_shown_however_long_they_are(tmp_path, capsys):
    logger = QuietRunner.from_cfg(tiny_runs.config(tmp_path, log_level='INFO')).logger
    assert isinstance(logger, MMLogger)
    logger.log(logging.INFO, '\n+-------+\n' + '| row |\n' * 50)
    assert capsys.readouterr().out.count('| row |') == 50


def test_what_hosts_print_while_they_are_imported_is_shown_once(capsys):
    def imported():
        sys.stdout.write('no such library\n' * 2)
        raise ImportError

    with pytest.raises(ImportError), each_line_once():
        imported()
    assert capsys.readouterr().out == 'no such library\n'
