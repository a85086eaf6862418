"""Shared fixtures: every test starts from the same seed, on one thread. Tests import the tools, and one another."""

import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FOLDERS = [str(path) for path in (HERE, HERE / 'timm', HERE / 'mm', HERE.parent / 'tools')]
sys.path[:0] = [path for path in FOLDERS if path not in sys.path]


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)
