"""The demo, in small: both domains, all methods, a table and a picture; a second call trains nothing."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')
sys.path.insert(0, str(Path(__file__).parent.parent / 'tools'))
import demo


def results(seeds):
    return [
        {'method': m, 'seed': s, 'seen': 40.0 + s, 'unseen': 20.0 + 2 * s, 'seconds': 9.0}
        for m in ('baseline', 'snr')
        for s in seeds
    ]


def test_table_gives_mean_and_sample_deviation_over_seeds():
    assert '| snr | 40.0 | 20.0 | 9 |' in demo.table(results([0]), ['baseline', 'snr'])
    assert '| snr | 41.0 ± 1.0 | 22.0 ± 2.0 | 9 ± 0 |' in demo.table(results([0, 1, 2]), ['baseline', 'snr'])


@pytest.mark.slow
def test_demo_runs_writes_its_results_and_does_not_repeat_itself(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    drawn = ['prepare_toy_streets.py', 'data/toy_streets', '--train', '8', '--val', '2', '--size', '512x256']
    demo.call(*drawn)
    call = demo.call
    monkeypatch.setattr(demo, 'call', lambda *command: call(*(drawn if command[0] == drawn[0] else command)))
    first = demo.main(['--iters', '2', '--methods', 'baseline', 'snr', '--out', 'out'])
    assert [r['method'] for r in first] == ['baseline', 'snr']
    assert all(0 <= r[domain] <= 100 for r in first for domain in ('seen', 'unseen'))
    assert (tmp_path / 'out/demo.png').stat().st_size > 10_000
    assert json.loads((tmp_path / 'out/results.json').read_text())['results'] == first
    capfd.readouterr()
    assert demo.main(['--iters', '2', '--methods', 'baseline', 'snr', '--out', 'out']) == first
    assert 'train.py' not in capfd.readouterr().out
