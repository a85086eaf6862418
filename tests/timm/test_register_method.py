"""Methods of others join the table by one call."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import timm_stylenorm
from timm_stylenorm.layers import SNR, BatchInstanceNorm2d
from timm_stylenorm.methods import METHODS, ROWS, Placement

HERE = Path(__file__).parent


def python(*arguments):
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(HERE), *sys.path])}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=HERE)


@pytest.mark.slow
def test_the_contracts_run_on_a_method_from_outside():
    """One file, one call: the tests that every row of the table has find it."""
    contracts = ['test_contracts.py', 'test_companions.py', 'test_models.py']
    line = ['-m', 'pytest', '-p', 'outside_method', '-p', 'no:cacheprovider', '-q', '-k', 'halfway', *contracts]
    done = python(*line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(' passed')[0].split()[-1]) > 20


@pytest.mark.slow
def test_a_method_from_outside_has_names_and_a_plugin():
    script = """
import outside_method, timm, timm_stylenorm, mmseg_stylenorm
from mmengine.registry import MODELS
from timm_stylenorm.__main__ import method_table
assert 'resnet18_halfway' in outside_method.NAMES and timm.is_model('resnet18_halfway')
model = timm.create_model('resnet18_halfway', style=dict(p=1.0))
assert [label for label, _ in timm_stylenorm.style_layers(model)] == ['halfway.stage1', 'halfway.stage2']
assert MODELS.build(dict(type='Halfway', in_channels=4, p=0.1)).p == 0.1
assert '| `halfway` | half way to the next image |' in method_table()
"""
    done = python('-c', script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ('name', 'layer', 'options', 'message'),
    [
        ('my-style', SNR, {}, "the name of a style method is an identifier, got 'my-style'"),
        ('snr', SNR, {}, "there is a style method 'snr' already: instance normalisation"),
        ('debiased', SNR, {}, "there is a style method 'debiased' already"),
        ('mine', nn.ReLU, {}, 'expected a subclass of StyleLayer, got'),
        ('mine', SNR(4), {}, 'expected a subclass of StyleLayer, got'),
        ('mine', SNR, {'placement': Placement.REPLACE}, 'is a NormLayer, which SNR is not'),
        ('mine', BatchInstanceNorm2d, {'sites': ()}, r'expected a tuple of sites, got \(\)'),
        ('mine', SNR, {'companions': ('clases',)}, "unknown companion 'clases'; did you mean 'classes'"),
    ],
)
def test_what_does_not_fit_is_refused_and_registers_nothing(name, layer, options, message):
    before = dict(ROWS), dict(METHODS)
    with pytest.raises(ValueError, match=message):
        timm_stylenorm.register_method(name, layer, **{'sites': ('stage1',), **options})
    assert before == (ROWS, METHODS)
