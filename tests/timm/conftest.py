"""Tests of what needs timm alone; they run where mmengine is not installed."""

import pytest
from doors import save_published


@pytest.fixture(scope='session')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('published')


@pytest.fixture
def published(root):
    """`published(arch, method)`: a model and the folder that timm saved it to; method None is the base."""
    return lambda arch, method, **options: save_published(root, arch, method, tuple(options.items()))
