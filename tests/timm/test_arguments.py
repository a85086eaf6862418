"""Arguments of layers and styles: numbers are numbers, and what is none is refused by name and value."""

import math
import re

import numpy as np
import pytest
import torch
from expected import LONELY
from nets import small

import timm_stylenorm
from timm_stylenorm.methods import ROWS

pytestmark = LONELY

NUMBERS = [(name, key) for name, row in ROWS.items() for key, d in row.defaults.items() if type(d) in (int, float)]
FLAGS = [(name, key) for name, row in ROWS.items() for key, d in row.defaults.items() if type(d) is bool]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, -1, '1', 'true', [], True])
@pytest.mark.parametrize(('method', 'key'), [*NUMBERS, ('snr', 'num_classes')])
def test_what_is_no_number_in_range_is_refused_with_its_value(method, key, value):
    with pytest.raises(ValueError, match=rf'expected .*{key}.*, got {re.escape(repr(value))}'):
        ROWS[method].layer(8, **{key: value})


@pytest.mark.parametrize('value', [1, 0.0, 'true', 'False', None, []])
@pytest.mark.parametrize(('method', 'key'), FLAGS)
def test_what_is_neither_true_nor_false_is_refused_with_its_value(method, key, value):
    with pytest.raises(ValueError, match=rf'expected {key} to be true or false, got {re.escape(repr(value))}'):
        ROWS[method].layer(8, **{key: value})


@pytest.mark.parametrize(('method', 'key'), NUMBERS)
def test_numbers_of_numpy_are_numbers(method, key):
    default = ROWS[method].defaults[key]
    kinds = [np.int64, np.int32] if type(default) is int else [np.float64, np.float32]
    for kind in kinds:
        layer = ROWS[method].layer(8, **{key: kind(default)})
        layer.train()(torch.randn(4, 8, 6, 6))


@pytest.mark.parametrize(
    ('style', 'kwargs', 'error', 'message'),
    [
        ([], {}, ValueError, r'style names no method, got \[\]'),
        ((), {}, ValueError, r'style names no method, got \(\)'),
        ('padain', {'type': 'snr'}, TypeError, "names its method already, and type='snr' is given beside it"),
        ({'type': 'padain'}, {'type': 'snr'}, TypeError, "type='snr' is given beside it"),
        ('padain', {'sites': (1,)}, ValueError, 'a site is a name, got 1; list_sites'),
        ('padain', {'sites': 1}, ValueError, 'a site is a name, got 1'),
        ('padain', {'sites': ('stage1', None)}, ValueError, 'a site is a name, got None'),
    ],
)
def test_styles_that_say_nothing_or_two_things_are_refused(style, kwargs, error, message):
    model = small('resnet18')
    with pytest.raises(error, match=message):
        timm_stylenorm.add_style(model, style, **kwargs)
    assert not list(timm_stylenorm.style_layers(model))


def test_sites_may_come_from_a_generator():
    model = timm_stylenorm.add_style(small('resnet18'), 'mixstyle', sites=(f'stage{i}' for i in (1, 3)))
    assert [label for label, _ in timm_stylenorm.style_layers(model)] == ['mixstyle.stage1', 'mixstyle.stage3']
