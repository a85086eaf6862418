"""The demo, in small: both domains, all methods, a table and a picture; a second call trains nothing."""

import json

import pytest

pytest.importorskip('mmseg')
import demo
import train
from bench.names import TRAINED
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from timm_stylenorm import style_layers


def results(seeds):
    return [
        {'method': m, 'seed': s, 'seen': 40.0 + s, 'unseen': 20.0 + 2 * s, 'seconds': 9.0}
        for m in ('baseline', 'snr')
        for s in seeds
    ]


def test_table_gives_mean_and_sample_deviation_over_seeds():
    assert '| snr | 40.0 | 20.0 | 9 |' in demo.table(results([0]), ['baseline', 'snr'])
    assert '| snr | 41.0 ± 1.0 | 22.0 ± 2.0 | 9 ± 0 |' in demo.table(results([0, 1, 2]), ['baseline', 'snr'])


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Arguments of a demo that does everything but train and evaluate; `trained` lists the calls of train.py."""
    args = demo.parse_args(['--out', str(tmp_path), '--iters', '2'])
    args.trained = []
    monkeypatch.setattr(demo, 'call', lambda *command: args.trained.append(command))
    monkeypatch.setattr(demo, 'evaluate', lambda *_: {'seen': 40.0, 'unseen': 20.0})
    return args


def test_a_finished_run_counts_as_long_as_its_config_says_the_same(arguments, monkeypatch, tmp_path):
    first = demo.run_method('snr', 0, arguments)
    assert demo.run_method('snr', 0, arguments) == first
    assert len(arguments.trained) == 1
    load = demo.load

    def edited(*given):
        cfg = load(*given)
        cfg.optim_wrapper.optimizer.lr *= 2
        return cfg

    (tmp_path / 'snr-seed0/last_checkpoint').touch()
    monkeypatch.setattr(demo, 'load', edited)
    assert demo.run_method('snr', 0, arguments)['content'] != first['content']
    assert len(arguments.trained) == 2
    assert not (tmp_path / 'snr-seed0/last_checkpoint').exists()


def test_a_run_moved_with_its_folder_still_counts(arguments, tmp_path):
    first = demo.run_method('baseline', 0, arguments)
    (tmp_path / 'new').mkdir()
    (tmp_path / 'baseline-seed0').rename(tmp_path / 'new/baseline-seed0')
    arguments.out = tmp_path / 'new'
    assert demo.run_method('baseline', 0, arguments) == first


def test_a_result_is_written_whole_or_not_at_all(arguments, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(demo.os, 'replace', killed)
        with pytest.raises(KeyboardInterrupt):
            demo.write_json(tmp_path / 'result.json', {'seen': 40.0})
    assert not (tmp_path / 'result.json').exists()
    demo.write_json(tmp_path / 'result.json', {'seen': 40.0})
    assert json.loads((tmp_path / 'result.json').read_text()) == {'seen': 40.0}


@pytest.mark.parametrize('method', TRAINED)
def test_every_method_has_a_demo(method, arguments, tmp_path):
    init_default_scope('mmseg')
    args = demo.parse_args(['--methods', method])
    cfg = demo.load(method, tmp_path, args)
    wanted = {'advbn': {'advbn', 'dual_bn'}, 'debiased': {'dual_bn'}}.get(method, {method})
    assert {label.split('.')[0] for label, _ in style_layers(MODELS.build(cfg.model))} == wanted
    demo.run_method(method, 0, arguments)
    [command] = arguments.trained
    assert train.parse_args(command[1:]).config == demo.config_of(method)


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
