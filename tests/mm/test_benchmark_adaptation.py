"""The adaptation benchmark: its chain of configs, and a tiny run of it."""

import dataclasses
import json

import pytest

pytest.importorskip('mmseg')
import benchmark_adaptation as tool
from bench import engine, plan, presets
from test_demo import small_streets  # noqa: F401 (a fixture)

from timm_stylenorm.runner.configs import list_configs


def test_every_row_has_a_config_and_starts_from_an_earlier_one(monkeypatch):
    monkeypatch.setattr(plan, 'check_data', lambda *_: None)
    rows = presets.adaptation(240).rows
    names = list(rows)
    for i, (name, row) in enumerate(rows.items()):
        assert row.config in list_configs(), name
        assert row.start is None or row.start in names[:i]
    longer = plan.config_of(rows['source only, longer'])
    assert (longer.optim_wrapper.optimizer.lr, longer.train_cfg.max_iters) == (5e-4, 120)


@pytest.mark.slow
def test_a_chain_is_trained_tested_drawn_and_not_repeated(tmp_path, monkeypatch, capsys, small_streets):  # noqa: F811
    def few(iters):
        study = small_streets(presets.adaptation)(iters)
        names = ('source only', 'FADA')
        return dataclasses.replace(study, shown=[*names, *(f'{name}, AdaBN' for name in names)])

    monkeypatch.setattr(tool, 'adaptation', few)
    first = tool.main(['--seeds', '0', '--iters', '4', '--work-dir', 'out'])
    assert [result['method'] for result in first] == ['source only', 'FADA', 'source only, AdaBN', 'FADA, AdaBN']
    assert all(0 <= result['scores']['unseen'] <= 100 for result in first)
    assert '| FADA | ' in capsys.readouterr().out
    for name in ('summary.png', 'pictures.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 10_000
    assert json.loads((tmp_path / 'out/summary.json').read_text())['results'] == first
    monkeypatch.setattr(engine, 'start', lambda *_, **__: pytest.fail('trained again'))
    assert tool.main(['--seeds', '0', '--iters', '4', '--work-dir', 'out']) == first
