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
@pytest.mark.some(1)
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


def authors_densenet(cut, first_norm):
    """A network of timm with AdvBN after a transition, and its weights under the names of the authors."""
    style = dict(sites=f'features.transition{cut}')
    model = filled(timm.create_model('densenet121_advbn', num_classes=5, style=style)).eval()
    first = model.features.get_submodule(f'denseblock{cut + 1}.denselayer1').norm1
    theirs = {}
    for key, value in model.state_dict().items():
        kind, _, rest = key.removeprefix('features.').partition('.')
        number = int(kind[-1]) if kind[:-1] in ('denseblock', 'transition') else None
        part = 'head' if kind in ('norm5', 'classifier') or (number or 0) > cut else 'feature_x'
        if number and part == 'head':
            kind = f'{kind[:-1]}{number - cut}'
        name = '.'.join(filter(None, [part, kind, rest]))
        if number or kind == 'norm5':
            kind = 'adv' if '.aux_bn' in name else 'clean'
            name = name.replace('.aux_bn', '').replace('.bn.', '.').replace('.norm', f'.{kind}_norm')
        if not first_norm and name.startswith(f'head.denseblock1.denselayer1.{kind}_norm1'):
            continue
        theirs[name] = value
    if not first_norm:  # ours must be one that changes nothing
        for norm in (first.bn, first.aux_bn):
            for name, value in (('weight', 1), ('bias', 0), ('running_mean', 0), ('running_var', 1 - norm.eps)):
                getattr(norm, name).data.fill_(value)
    return model, theirs


@pytest.mark.parametrize(('cut', 'first_norm'), [(1, False), pytest.param(2, False, marks=pytest.mark.slow), (1, True)])
@pytest.mark.some(1)
def test_densenets_of_advbn_have_their_cut_after_a_transition(cut, first_norm):
    model, theirs = authors_densenet(cut, first_norm)
    below = [key for key in theirs if 'feature_x' in key and 'clean_norm' in key]
    theirs |= {key.replace('clean', 'adv'): theirs[key] for key in below}  # created, and never run
    conversion = convert({f'module.{key}': value for key, value in theirs.items()})
    style = {'type': 'advbn', 'sites': [f'features.transition{cut}']}
    assert (conversion.model, conversion.style) == ('densenet121_advbn', style)
    assert len(conversion.report.added) == (0 if first_norm else 10)
    got = verify(conversion).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for route in ('clean', 'adversarial'):
            with routed(model, route), routed(got, route):
                torch.testing.assert_close(got(x), model(x))
    back = export(conversion.state_dict, 'advbn').state_dict
    extra = [key for key in back if key not in theirs]
    assert all(key.startswith('head.denseblock1.denselayer1.') and 'norm1' in key for key in extra)
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
