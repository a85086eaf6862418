"""One small model of every file of timm and torchvision times methods: refused at build, or right. Slow.

A few models are slow tests; `make sweep` runs all, more than half an hour, and prints the table.
"""

import collections
import logging
import warnings

import pytest
import timm
import torch
import torchvision
from sweep import SWEPT, outcome, size_for

from timm_stylenorm.models import default_cfgs

log = logging.getLogger('sweep')
SMALL = ('atto', 'femto', 'pico', 'nano', 'xxs', 'xxt', '_xs', 'mini', 'tiny', 'b0', '_s0', '18', '_s', '26', '050')
TORCHVISION = (
    'resnet18', 'densenet121', 'efficientnet_b0', 'mobilenet_v2', 'mobilenet_v3_small', 'mnasnet0_5', 'regnet_x_400mf',
    'shufflenet_v2_x0_5', 'squeezenet1_0', 'swin_t', 'vgg11_bn', 'vit_b_32', 'convnext_tiny', 'googlenet',
)  # fmt: skip
LARGEST = 60e6  # parameters
COUNTS = collections.Counter()
MODES = collections.Counter()


def _size(name):
    return next((i for i, word in enumerate(SMALL) if word in name), len(SMALL)), len(name), name


def _smallest(module):
    """The architecture of a file that sounds small; by its name, so that none is built to find out."""
    names = [n for n in timm.list_models(module=module) if n not in default_cfgs]
    return min(names, key=_size, default=None)


FEW = ('resnet', 'pvt_v2', 'mvitv2', 'res2net', 'selecsls', 'convnext', 'swin_transformer', 'vision_transformer')
EVERY = [('timm', name) for name in map(_smallest, timm.list_modules()) if name]
EVERY += [('torchvision', name) for name in TORCHVISION]
SHORT = {('timm', _smallest(module)) for module in FEW}
MODELS = [case if case in SHORT else pytest.param(*case, marks=pytest.mark.sweep) for case in EVERY]


def _build(family, name):
    torch.manual_seed(0)
    if family == 'timm':
        return timm.create_model(name, num_classes=4)
    return torchvision.models.get_model(name, weights=None, num_classes=4)


@pytest.fixture(scope='module', autouse=True)
def _table():
    yield
    log.info('cells %s; probe could not run in %s', dict(COUNTS), dict(MODES))


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'name'), MODELS)
def test_a_method_is_refused_or_right(family, name):
    with torch.device('meta' if family == 'timm' else 'cpu'):  # torchvision's RegNet computes widths by tensors
        count = sum(p.numel() for p in _build(family, name).parameters())
    if count > LARGEST:
        pytest.skip(f'{count / 1e6:.0f} million parameters')
    plain = _build(family, name)
    size = size_for(plain)
    if size is None:
        pytest.skip('takes no batch of images in training')
    images = torch.randn(3, 3, *size)
    with torch.no_grad():
        reference = plain.eval()(images)
    row, wrong = [], []
    for method in SWEPT:
        torch.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                result, unproven, text = outcome(plain, images, reference, method)
        except Exception as error:
            result, unproven, text = 'wrong', False, f'{type(error).__name__}: {error}'
            wrong.append(f'{method}: {text}')
        COUNTS[result] += 1
        MODES[name] += unproven
        row.append(f'{method}={result}' + ('*' if unproven else ''))
        log.debug('%s %s: %s', name, method, text)
    log.info('%s %s %s: %s', family, name, size, ' '.join(row))
    assert not wrong, '\n'.join(wrong)
