"""The demo, in small: both domains, all methods, a table and a picture; a second call trains nothing."""

import dataclasses
import json

import pytest

pytest.importorskip('mmseg')
import demo
from bench import engine, plan, presets
from bench.names import TRAINED
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from timm_stylenorm import style_layers


@pytest.mark.parametrize('method', TRAINED)
def test_every_method_has_a_demo(method, monkeypatch):
    init_default_scope('mmseg')
    monkeypatch.setattr(plan, 'check_data', lambda *_: None)
    cfg = plan.config_of(presets.toy_streets([method]).rows[method])
    wanted = {'advbn': {'advbn', 'dual_bn'}, 'debiased': {'dual_bn'}}.get(method, {method})
    assert {label.split('.')[0] for label, _ in style_layers(MODELS.build(cfg.model))} == wanted


@pytest.fixture
def small_streets(tmp_path, monkeypatch):
    """Toy streets of some pictures in the folder where one is; presets take them as they are."""
    import prepare_toy_streets

    monkeypatch.chdir(tmp_path)
    prepare_toy_streets.main(['data/toy_streets', '--train', '8', '--val', '2', '--size', '512x256', '--workers', '1'])
    return lambda whole: lambda *args, **options: dataclasses.replace(whole(*args, **options), prepare=())


@pytest.mark.slow
def test_demo_runs_writes_its_results_and_does_not_repeat_itself(tmp_path, monkeypatch, small_streets):
    monkeypatch.setattr(demo, 'toy_streets', small_streets(presets.toy_streets))
    first = demo.main(['--iters', '2', '--methods', 'baseline', 'snr', '--out', 'out'])
    assert [r['method'] for r in first] == ['baseline', 'snr']
    assert all(0 <= r['scores'][domain] <= 100 for r in first for domain in ('seen', 'unseen'))
    assert (tmp_path / 'out/demo.png').stat().st_size > 10_000
    assert json.loads((tmp_path / 'out/results.json').read_text())['results'] == first
    monkeypatch.setattr(engine, 'start', lambda *_, **__: pytest.fail('trained again'))
    assert demo.main(['--iters', '2', '--methods', 'baseline', 'snr', '--out', 'out']) == first
