"""Shared fixtures: every test starts from the same seed, on one thread. Tests import the tools, and one another."""

import os
import random
import sys
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


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what mmcv and mmseg draw from
    torch.manual_seed(0)
