"""Checkpoints with two batch norms in the place of one: AdvBN's, and those of shape-texture debiased training."""

import pytest
import timm
import torch
from golden_data import authors_state, filled

import timm_stylenorm
from timm_stylenorm.convert import convert, export, verify
from timm_stylenorm.dual_bn import routed


@pytest.fixture(scope='module')
def advbn():
    return authors_state('net_advbn_resnet18')


@pytest.fixture(scope='module')
def debiased():
    return filled(timm.create_model('resnet18_debiased', num_classes=5))


def test_advbn_fits_its_model_strictly_and_the_plain_one_without_auxiliary_batch_norms(advbn):
    conversion = convert(advbn)
    assert (conversion.model, conversion.style) == ('resnet18_advbn', {'type': 'advbn'})
    model = timm.create_model('resnet18_advbn').eval()
    model.load_state_dict(conversion.state_dict)
    assert torch.equal(model.layer3[0].downsample[1].aux_bn.bias, advbn['head.layer3_0.downsample.adv_bn.bias'])
    plain = convert(advbn, plain=True)
    assert (plain.model, plain.style) == ('resnet18', None)
    assert sum(why == 'an auxiliary batch norm' for why in plain.report.dropped.values()) == 75
    base = timm.create_model('resnet18').eval()
    base.load_state_dict(plain.state_dict)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), base(x))


@pytest.mark.parametrize(('name', 'cut'), [('resnet34', 1), ('resnet50', 2), ('resnet50', 3)])
def test_the_cut_is_read_from_the_keys(name, cut):
    model = timm.create_model(f'{name}_advbn', num_classes=5, style=dict(sites=f'stage{cut}'))
    theirs = export(model.state_dict(), 'advbn')
    stages = {key.partition('.conv1')[0] for key in theirs.state_dict if '.conv1.' in key}
    assert [f'feature_x.{s + 3}.0' in stages for s in (1, 2, 3)] == [s <= cut for s in (1, 2, 3)]
    assert [f'head.layer{s}_0' in stages for s in (2, 3, 4)] == [s > cut for s in (2, 3, 4)]
    conversion = convert({f'module.{key}': value for key, value in theirs.state_dict.items()})
    assert conversion.style == {'type': 'advbn'} | ({} if cut == 1 else {'sites': [f'stage{cut}']})
    loaded = verify(conversion).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


def test_an_export_has_copies_where_the_authors_create_layers_and_never_run_them(advbn):
    added = export(convert(advbn).state_dict, 'advbn').report.added
    assert len(added) == 20
    assert all('feature_x' in key and 'a copy of clean_bn' in why for key, why in added.items())
    state = export(timm.create_model('resnet50_advbn', num_classes=5).state_dict(), 'advbn').state_dict
    frozen = 'feature_x.4.0.downsample'
    assert torch.equal(state[f'{frozen}.adv_bn.running_var'], state[f'{frozen}.clean_bn.running_var'])


@pytest.mark.parametrize('site', ['stem', 'layer1.0', 'layer2.0'])
def test_a_cut_that_the_authors_cannot_make_is_not_exported(site):
    model = timm_stylenorm.add_style(timm.create_model('resnet18', num_classes=5), 'advbn', sites=site)
    with pytest.raises(ValueError, match=r'export to advbn: its network has no place for .layer'):
        export(model.state_dict(), 'advbn')


def test_debiased_keys_are_ours_after_any_prefix(debiased):
    theirs = {f'module.{key.replace(".bn.", ".")}': value for key, value in debiased.state_dict().items()}
    conversion = convert(theirs)
    assert (conversion.report.source, conversion.style) == ('debiased', {'type': 'debiased'})
    x = torch.randn(2, 3, 64, 64)
    model = verify(conversion).eval()
    with torch.no_grad():
        assert torch.equal(model(x), debiased(x))
        with routed(model, 'adversarial'), routed(debiased, 'adversarial'):
            assert torch.equal(model(x), debiased(x))
        assert torch.equal(verify(convert(theirs, plain=True), 'resnet18').eval()(x), debiased(x))
    authors = [key.replace('.bn.', '.') for key in debiased.state_dict()]
    assert list(export(model.state_dict(), 'debiased').state_dict) == authors


def test_the_methods_are_not_mistaken_for_each_other(advbn, debiased):
    with pytest.raises(ValueError, match=r'no place for .bn1\.aux_bn\.weight'):
        export(debiased.state_dict(), 'advbn')
    with pytest.raises(ValueError, match=r'no weights for .*bn1..aux_bn'):
        export(convert(advbn).state_dict, 'debiased')
    with pytest.raises(ValueError, match=r'lacks what marks debiased'):
        convert(convert(advbn).state_dict)
    with pytest.raises(ValueError, match='no plain network in it: snr takes part'):
        convert(authors_state('net_snr_resnet18'), plain=True)
    mixed = {**advbn, 'feature_x.5.0.conv1.weight': torch.ones(1)}
    with pytest.raises(ValueError, match='no known source'):
        convert(mixed)
