"""What sites a model has, and which methods fit it, is what `find_sites` and `add_style` say."""

import copy
import re

import pytest
import torchvision
from nets import small

import timm_stylenorm
from timm_stylenorm.methods import ROWS
from timm_stylenorm.surgery.listing import fitting_methods
from timm_stylenorm.surgery.sites import find_sites

ARCHS = {  # name -> some of its sites and the numbers of modules, and methods that do not fit
    'resnet18': ({'convs': 17, 'stem.pool': 1, 'blocks': 8, 'stage2.norm1': 2, 'stage4.sum': 1}, set()),
    'convnext_atto': (
        {'blocks': 5, 'stage4': 1, 'stem.norm': 1},
        {'ibn_a', 'ibn_b', 'bin', 'domainnorm', 'irw', 'isw', 'dual_bn', 'debiased'},
    ),
    'swin_tiny_patch4_window7_224': (
        {'blocks': 4, 'stage1': 1},
        {'ibn_a', 'ibn_b', 'bin', 'domainnorm', 'irw', 'isw', 'dual_bn', 'debiased'},
    ),
    'vit_tiny_patch16_224': (
        {'blocks': 4, 'stage4': 1},
        {'padain', 'ibn_a', 'ibn_b', 'bin', 'domainnorm', 'irw', 'isw', 'dual_bn', 'debiased'},
    ),
    'vgg16_bn': (
        {'convs': 13, 'batch_norms': 13, 'stage4': 1},
        {'crossnorm', 'selfnorm', 'ibn_a', 'ibn_b', 'irw', 'isw'},
    ),
}


@pytest.mark.parametrize('arch', ARCHS)
def test_the_rows_are_what_the_sites_mean(arch):
    model = small(arch)
    rows = timm_stylenorm.list_sites(model)
    expected, _ = ARCHS[arch]
    assert expected.items() <= {row.name: len(row.modules) for row in rows}.items()
    for row in rows:
        sites = find_sites(model, row.name)
        assert [site.name for site in sites] == list(row.modules)
        assert [site.channels for site in sites] == list(row.channels)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.some(2)
def test_a_method_fits_where_it_can_be_added(arch):
    model = small(arch)
    keys, tensors = list(model.state_dict()), [p.clone() for p in model.parameters()]
    fitting = fitting_methods(model)
    assert list(fitting) == list(ROWS)
    assert {name for name, reason in fitting.items() if reason} == ARCHS[arch][1]
    assert list(model.state_dict()) == keys
    assert all(p.equal(q) for p, q in zip(model.parameters(), tensors, strict=True))
    for name, reason in fitting.items():
        twin = copy.deepcopy(model)
        if reason is None:
            timm_stylenorm.add_style(twin, name)
        else:
            with pytest.raises(ValueError, match=re.escape(reason)):
                timm_stylenorm.add_style(twin, name)


def test_a_model_without_feature_info_has_rows():
    rows = {row.name: row for row in timm_stylenorm.list_sites(torchvision.models.resnet18())}
    assert rows['stage2'].modules == ('layer2.1',)
    assert rows['stage2'].channels == (128,)


def test_a_site_that_a_model_does_not_have_is_told_with_those_that_it_has():
    with pytest.raises(
        ValueError, match=r"^RegNet has no site 'stem\.pool'.*[aA]vailable: convs, .*list_sites"
    ) as caught:
        find_sites(small('regnetx_002'), 'stem.pool')
    assert 'stem.pool,' not in str(caught.value)
