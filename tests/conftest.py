"""Shared fixtures: every test starts from the same seed, on one thread, without mmengine's slow moments."""

import functools
import gc

import pytest
import torch
from mmengine.config import utils

load_once = functools.cache(utils.load)


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without what mmengine does for every base config and data set: read all of mmseg's index, collect garbage."""
    monkeypatch.setattr(utils, 'load', load_once)
    monkeypatch.setattr(gc, 'collect', lambda *_: 0)
