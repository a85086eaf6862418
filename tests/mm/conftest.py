"""Tests of what needs mmengine or mmsegmentation, without mmengine's slow moments."""

import copy
import functools
import importlib.util
import os
from types import SimpleNamespace

import pytest

HOST = importlib.util.find_spec('mmengine') is not None
collect_ignore_glob = [] if HOST else ['*']

if HOST:
    import compiled_ops

    compiled_ops.install()  # before anything imports mmcv.ops

    from mmengine.config import Config, config, utils
    from mmengine.dataset import base_dataset
    from mmengine.registry import DefaultScope
    from yapf.yapflib import yapf_api

    from timm_stylenorm.runner.configs import config_root

    load_once = functools.cache(utils.load)
    SHIPPED, PARSED, parse = str(config_root()), {}, Config._file2dict

    def parse_once(filename, *options, **named):
        """What a config holds; a shipped one is read once for each environment."""
        path = os.path.abspath(filename)
        if not path.startswith(SHIPPED):
            return parse(filename, *options, **named)
        variables = frozenset(item for item in os.environ.items() if item[0] != 'PYTEST_CURRENT_TEST')
        key = path, options, frozenset(named.items()), variables
        if key not in PARSED:
            PARSED[key] = parse(filename, *options, **named)
        return copy.deepcopy(PARSED[key])

    @pytest.fixture(autouse=True)
    def _own_scope():
        """A test that sets the default scope sets it for itself alone."""
        with DefaultScope.overwrite_default_scope('mmseg' if importlib.util.find_spec('mmseg') else 'mmengine'):
            yield

    @pytest.fixture(autouse=True)
    def _quick(monkeypatch):
        """Without what mmengine does for every config, base config and data set: lay out what it writes, read all of
        mmseg's index, collect garbage."""
        for module in (yapf_api, config):  # older mmengines have it by this name
            monkeypatch.setattr(module, 'FormatCode', lambda text, **_: (text, False), raising=False)
        monkeypatch.setattr(utils, 'load', load_once)
        monkeypatch.setattr(Config, '_file2dict', staticmethod(parse_once))
        monkeypatch.setattr(base_dataset, 'gc', SimpleNamespace(collect=lambda: 0))

    @pytest.fixture
    def unpainted(monkeypatch):
        """Reports with empty pictures; test_evaluation.py has them drawn."""
        from mmseg_stylenorm.evaluation import report

        for draw in ('_draw_scores', '_draw_confusion'):
            monkeypatch.setattr(report, draw, lambda report, file: file.touch())
