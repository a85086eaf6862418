"""Tests of what older versions of torch and hosts do not have are left out there, with the reason."""

from importlib.metadata import version

import pytest
from packaging.version import Version


def older(package, than):
    """Whether the package that is installed is older than a version."""
    return Version(version(package)) < Version(than)


def since(package, first, what):
    """A mark: leave out where the package is older than `first`, which brought `what`."""
    return pytest.mark.skipif(older(package, first), reason=f'{package} before {first}: {what}')


HALF_ON_CPU = since('torch', '2.3', 'no float16 convolutions and autocast on CPUs')
OTHER_CLASSES = since('torch', '2.6', 'weights_only=True cannot be told of other classes')
WHOLE_GRAPHS = since('torch', '2.6', 'torch.compile breaks graphs at style layers')
ARGUMENTS = since('timm', '1.0.31', 'published models do not keep their arguments')
TRAIN_SCRIPT = since('timm', '1.0.31', 'another train.py than the one that is stood in for')
CONTAINERS = since('torch', '2.6', 'torch.compile leaves hooks of nn.Sequential out, and layers after it')
