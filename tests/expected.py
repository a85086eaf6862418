"""Warnings of ours that are meant to come in some tests, and are errors in all others."""

import pytest

# layers without their companions, which tests of the layers do not need; a colon would end the pattern
LONELY = pytest.mark.filterwarnings(
    'ignore:.*(nobody has said|its gates are in a group|its layers change nothing|no pairs of channels are selected)'
)
# forwards whose losses nobody takes
UNTAKEN = pytest.mark.filterwarnings('ignore:.*nobody took the loss of the last forward')
