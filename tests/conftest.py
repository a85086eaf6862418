"""Shared fixtures: every test starts from the same seed, on one thread. Tests import the tools, and one another."""

import os
import random
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent
FOLDERS = [str(path) for path in (HERE, HERE / 'timm', HERE / 'mm', HERE.parent / 'tools')]
sys.path[:0] = [path for path in FOLDERS if path not in sys.path]

os.environ.setdefault('STYLENORM_TRUSTED', os.sep)  # tests read what they have written, with old versions of torch too

# The first backward pass of a process starts threads once `torch.compile` has run, and then no test may fork
torch.ones(1, requires_grad=True).sum().backward()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Marks as slow what `some(count)` leaves out: the same cases each time, drawn over all parameters of a test."""
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker('some') and not item.get_closest_marker('slow'):
            tests[item.parent, item.originalname].append(item)
    for (_, name), cases in tests.items():
        (count,) = cases[0].get_closest_marker('some').args
        chosen = random.Random(name).sample(cases, min(count, len(cases)))
        for case in cases:
            if case not in chosen:
                case.add_marker('slow')


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what mmcv and mmseg draw from
    torch.manual_seed(0)
