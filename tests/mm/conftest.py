"""Tests of what needs mmengine or mmsegmentation, without mmengine's slow moments."""

import functools
import importlib.util
from types import SimpleNamespace

import pytest

HOST = importlib.util.find_spec('mmengine') is not None
collect_ignore_glob = [] if HOST else ['*']

if HOST:
    import compiled_ops

    compiled_ops.install()  # before anything imports mmcv.ops

    from mmengine.config import utils
    from mmengine.dataset import base_dataset
    from mmengine.registry import DefaultScope

    load_once = functools.cache(utils.load)

    @pytest.fixture(autouse=True)
    def _own_scope():
        """A test that sets the default scope sets it for itself alone."""
        with DefaultScope.overwrite_default_scope('mmseg' if importlib.util.find_spec('mmseg') else 'mmengine'):
            yield

    @pytest.fixture(autouse=True)
    def _quick(monkeypatch):
        """Without what mmengine does for every base config and data set: read all of mmseg's index, collect garbage."""
        monkeypatch.setattr(utils, 'load', load_once)
        monkeypatch.setattr(base_dataset, 'gc', SimpleNamespace(collect=lambda: 0))
