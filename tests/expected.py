"""Warnings of ours that are meant to come in some tests, and errors in all others."""

import pytest

# layers without their companions, which tests of the layers do not need
LONELY = pytest.mark.filterwarnings(
    r'ignore:\w+: (nobody has said|its gates are in a group|its layers change nothing|no pairs of channels)'
)
# forwards whose losses nobody takes
UNTAKEN = pytest.mark.filterwarnings(r'ignore:[\w.]+: nobody took the loss of the last forward')
