"""The adaptation benchmark: its chain of configs, and a tiny run of it."""

import importlib
import json

import pytest

from timm_stylenorm.runner.configs import config_root, list_configs


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(config_root().parent / 'tools'))
    return importlib.import_module('benchmark_adaptation')


def test_every_row_has_a_config_and_starts_from_an_earlier_one(tool):
    names = list(tool.ROWS)
    for i, (name, row) in enumerate(tool.ROWS.items()):
        assert tool.CONFIG.format(row.config) in list_configs(), name
        assert row.start is None or row.start in names[:i]


@pytest.mark.slow
def test_a_chain_is_trained_tested_drawn_and_not_repeated(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    drawn = ['prepare_toy_streets.py', 'data/toy_streets', '--train', '8', '--val', '2', '--size', '512x256']
    tool.call(*drawn)
    call = tool.call
    monkeypatch.setattr(tool, 'call', lambda *command: call(*(drawn if command[0] == drawn[0] else command)))
    monkeypatch.setattr(tool, 'ROWS', {name: tool.ROWS[name] for name in ('source only', 'FADA')})
    first = tool.main(['--seeds', '0', '--iters', '4', '--work-dir', 'out'])
    assert [result['row'] for result in first] == ['source only', 'FADA']
    assert all(0 <= result[key] <= 100 for result in first for key in ('plain', 'adabn'))
    assert '| FADA | ' in capsys.readouterr().out
    for name in ('summary.png', 'pictures.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 10_000
    assert json.loads((tmp_path / 'out/summary.json').read_text())['results'] == first
    monkeypatch.setattr(tool, 'call', lambda *command: command[0] == drawn[0] or pytest.fail('trained again'))
    assert tool.main(['--seeds', '0', '--iters', '4', '--work-dir', 'out']) == first
