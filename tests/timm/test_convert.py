"""Checkpoints of others: every key is accounted for, the numbers are the authors', and the way back is exact."""

import pytest
import timm
import torch
import torchvision
from golden_data import authors_state, filled, load, sample

import timm_stylenorm
from timm_stylenorm.convert import convert, detect, export, verify

KEY_LISTS = {
    'net_padain_resnet18': 'torchvision',
    'net_resnet18_ibn_a': 'ibn-net',
    'net_snr_resnet18': 'snr',
    'snr_causality_resnet18_7': 'snr',
    'deeplab_snr_19': 'snr-deeplab',
    'fada_feature_extractor_resnet101': 'fada',
    'net_advbn_resnet18': 'advbn',
}


@pytest.fixture(scope='module')
def plain():
    torch.manual_seed(0)
    return timm.create_model('resnet18', num_classes=10).state_dict()


@pytest.fixture(scope='module')
def snr():
    return authors_state('net_snr_resnet18')


@pytest.mark.parametrize('target', ['timm', 'mmseg'])
@pytest.mark.parametrize('name', KEY_LISTS)
@pytest.mark.some(4)
def test_every_key_is_accounted_for_and_comes_back(name, target):
    state = authors_state(name)
    conversion = convert(state, target=target)
    report = conversion.report
    assert report.source == detect(state) == KEY_LISTS[name]
    assert report.mapped.keys() | report.dropped.keys() == state.keys()
    assert list(report.mapped.values()) == list(conversion.state_dict)
    back = export(conversion.state_dict, report.source)
    gone = [key for key in report.dropped if key not in back.report.added]
    assert list(back.state_dict) == [key for key in state if key not in gone]
    for key in report.mapped:
        assert torch.equal(back.state_dict[key], state[key])
    for key in back.report.added:
        assert back.state_dict[key].shape == state[key].shape
    heads = {'fc.weight', 'fc.bias', 'head.fc.weight', 'head.fc.bias'}
    expected = heads & state.keys() if target == 'mmseg' else set()
    assert set(gone) == expected | {key for key in state if key.startswith(('layer5', 'layer6'))}


@pytest.mark.parametrize('name', ['net_padain_resnet18', 'net_resnet18_ibn_a', 'net_snr_resnet18'])
def test_converted_networks_give_the_authors_logits(name):
    d, conversion = load(name), convert(authors_state(name))
    model = verify(conversion, 'resnet18_padain' if 'padain' in name else None)
    assert not conversion.report.left
    with torch.no_grad():
        logits = model.eval()(d['x'])
    noise = max(20 * float(d['eval_logits_f64_maxdiff']), 1e-4)
    torch.testing.assert_close(logits, d['eval_logits'], rtol=0, atol=noise)


def test_heads_of_the_causality_loss_are_converted():
    state = authors_state('snr_causality_resnet18_7')
    conversion = convert(state)
    assert conversion.style == {'type': 'snr', 'num_classes': 7}
    model = verify(conversion)
    assert torch.equal(model.layer2[1].style['snr'].head.weight, state['fc2.weight'])
    assert torch.equal(model.layer3[1].style['snr'].fc1.bias, state['style_reid_laye3.fc1.bias'])
    assert not conversion.report.left


def test_deeplab_fits_the_backbone_of_mmseg():
    mmseg = pytest.importorskip('mmseg.models.backbones')
    conversion = convert(authors_state('deeplab_snr_19'), target='mmseg')
    assert conversion.model == 'resnet101_snr'
    assert {key.partition('.')[0] for key in conversion.report.dropped} == {'layer5', 'layer6'}
    with torch.device('meta'):
        model = mmseg.ResNet(101, style='caffe', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
        timm_stylenorm.add_style(model, conversion.style)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in conversion.state_dict.items()}


@pytest.mark.parametrize(('name', 'stage'), [('padain', 'layer4'), ('ibn_a', 'layer3'), ('snr', 'useful3')])
def test_backbones_of_mmseg_give_the_authors_maps(name, stage):
    mmseg = pytest.importorskip('mmseg.models.backbones')
    name = {'padain': 'net_padain_resnet18', 'ibn_a': 'net_resnet18_ibn_a', 'snr': 'net_snr_resnet18'}[name]
    d, conversion = load(name), convert(authors_state(name), target='mmseg')
    model = mmseg.ResNet(18)
    timm_stylenorm.add_style(model, conversion.style or 'padain')
    verify(conversion, model).eval()  # mmseg's gives None
    with torch.no_grad():
        maps = model(d['x'])
    expected = d[f'eval.{stage}.sample']
    torch.testing.assert_close(sample(maps[int(stage[-1]) - 1]), expected, rtol=0, atol=1e-3 * float(expected.max()))


def test_the_extractor_of_fada_gives_equal_maps_in_mmseg():
    mmseg = pytest.importorskip('mmseg.models.backbones')
    theirs = filled(torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]))
    theirs = torchvision.models._utils.IntermediateLayerGetter(theirs, {'layer4': 'out'})
    state = {f'backbone.{key}': value for key, value in theirs.state_dict().items()}
    conversion = convert(state, target='mmseg')
    assert conversion.report.source == 'fada'
    model = mmseg.ResNet(50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True)
    verify(conversion, model).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[-1], theirs(x)['out'], rtol=1e-4, atol=1e-4)
    plain = timm.create_model('resnet50').state_dict()
    back = export(plain, 'fada')
    assert list(back.state_dict) == list(state)
    assert back.report.dropped.keys() == {'fc.weight', 'fc.bias'}


def test_old_names_of_densenets_are_understood():
    model = filled(timm.create_model('densenet121', num_classes=5))
    state = model.state_dict()
    old = {k.replace('r1.norm1.', 'r1.norm.1.').replace('r1.conv2.', 'r1.conv.2.'): v for k, v in state.items()}
    assert any('.norm.1.' in key for key in old)
    conversion = convert(old)
    assert conversion.model == 'densenet121'
    assert list(conversion.state_dict) == list(state)
    assert list(export(state, 'torchvision').state_dict) == list(state)
    with pytest.raises(ValueError, match=r'mean .*norm1'):
        convert({**state, **old})


def test_gates_are_kept_under_their_names(plain):
    gates = {
        f'{key[: -len("running_var")]}gate': torch.rand(len(v)) for key, v in plain.items() if key.endswith('_var')
    }
    state = {f'module.{key}': value for key, value in {**plain, **gates}.items()}
    conversion = convert(state)
    assert conversion.report.source == 'bin'
    assert conversion.style == {'type': 'bin'}
    assert {k.replace('.bn.', '.') for k in conversion.state_dict} == plain.keys() | gates.keys()
    assert torch.equal(verify(conversion).layer1[0].bn1.gate, gates['layer1.0.bn1.gate'])


@pytest.mark.parametrize('prefix', ['module.', 'module.module.', 'model.', 'module.net.'])
def test_a_prefix_of_all_keys_is_taken_off(snr, prefix):
    conversion = convert({prefix + key: value for key, value in snr.items()})
    assert conversion.report.prefix == prefix
    assert conversion.report.source == 'snr'
    assert conversion.state_dict.keys() == convert(snr).state_dict.keys()
    assert all(key.startswith(prefix) for key in conversion.report.mapped)


def test_the_backbone_of_a_segmentor_is_exported(snr):
    ours = {f'backbone.{k}': v for k, v in convert(snr, target='mmseg').state_dict.items()}
    back = export({**ours, 'decode_head.conv_seg.weight': torch.ones(2, 3, 1, 1)}, 'snr')
    assert back.state_dict.keys() == snr.keys() - {'fc.weight', 'fc.bias'}
    assert back.report.dropped == {'decode_head.conv_seg.weight': "not below 'backbone.'"}


def test_counters_that_old_files_lack_are_added(plain):
    state = {key: value for key, value in plain.items() if not key.endswith('num_batches_tracked')}
    conversion = convert(state)
    assert conversion.report.added.keys() == plain.keys() - state.keys()
    assert conversion.state_dict.keys() == plain.keys()
    verify(conversion).load_state_dict(conversion.state_dict)


def test_statistics_of_old_instance_norms_are_dropped(snr):
    state = {**snr, 'IN1.running_mean': torch.zeros(64), 'IN1.running_var': torch.ones(64)}
    conversion = convert(state)
    assert conversion.state_dict.keys() == convert(snr).state_dict.keys()
    assert 'keeps no statistics' in conversion.report.dropped['IN1.running_var']


def test_an_unknown_checkpoint_is_refused_with_the_nearest(snr, plain):
    with pytest.raises(ValueError, match=r'Of 149 keys fit: snr 146, .*torchvision 122.*nearest is snr. 3 .*: odd\.0'):
        convert({**snr, **{f'odd.{i}': torch.ones(1) for i in range(3)}})
    with pytest.raises(ValueError, match='None of its 1 keys is known: transformer'):
        convert({'transformer.weight': torch.ones(1)})
    with pytest.raises(ValueError, match='three convolutions'):
        convert({'stem.0.weight': torch.ones(1), **plain})
    with pytest.raises(ValueError, match='export'):
        convert(convert(snr).state_dict)
    with pytest.raises(ValueError, match="did you mean 'snr'"):
        convert(snr, 'snrr')
    with pytest.raises(ValueError, match="did you mean 'mmseg'"):
        convert(snr, target='mmsegg')
    with pytest.raises(ValueError, match=r'no checkpoint of bin: it lacks .*gate.*nearest is snr'):
        convert(snr, 'bin')
    odd = {f'odd.{i}': torch.ones(1) for i in range(len(plain) + 1)}
    with pytest.raises(ValueError, match=r'no checkpoint of torchvision\. Of 245 keys fit'):
        convert({**plain, **odd}, 'torchvision')
    with pytest.raises(ValueError, match='type float'):
        convert({'lr': 0.1})


def test_a_named_source_may_leave_keys_over(snr):
    conversion = convert(snr, 'torchvision')
    assert conversion.model == 'resnet18'
    assert conversion.report.dropped['IN2.bias'] == 'no key of torchvision'
    assert len(conversion.report.dropped) == 24


def test_networks_that_mmseg_lacks_are_refused():
    for name, source in (('seresnet18_ibn_a', 'ibn-net'), ('densenet121', None)):
        with torch.device('meta'):
            state = timm.create_model(name).state_dict()
        state = {key.replace('.se.fc1.', '.se.fc.0.').replace('.se.fc2.', '.se.fc.2.'): v for key, v in state.items()}
        with pytest.raises(ValueError, match='TIMMBackbone'):
            convert(state, source, target='mmseg')


def test_an_export_of_another_method_is_refused(snr, plain):
    ours = convert(snr).state_dict
    with pytest.raises(ValueError, match=r"no place for 'layer1\.1\.style\.snr\..*\(122 of 140"):
        export(ours, 'padain')
    with pytest.raises(ValueError, match=r'export to ibn-net: the model has no weights for .*IN'):
        export(plain, 'ibn-net')


def test_verifying_tells_wrong_shapes_classes_and_networks(snr, plain):
    conversion = convert(snr)
    conversion.state_dict['layer2.1.style.snr.fc1.weight'] = torch.ones(9, 128, 1, 1)
    with pytest.raises(ValueError, match=r'1 of another shape: layer2\.1\.style\.snr\.fc1\.weight \(9, 128'):
        verify(conversion, 'resnet18_snr')
    with pytest.raises(ValueError, match=r'fc\.weight \(7, 512\) instead of \(3, 512\).*drop_classifier'):
        verify(convert(snr), num_classes=3)
    dropped = convert(snr, drop_classifier=True)
    verify(dropped, num_classes=3)
    assert dropped.report.left.keys() == {'fc.weight', 'fc.bias'}
    with pytest.raises(ValueError, match=r'missing: layer1\.2\.conv1.*those of resnet18,'):
        verify(convert(plain), 'resnet34')
    with pytest.raises(ValueError, match=r'unknown: .*resnet18_snr'):
        verify(convert(snr), 'resnet18')
    with pytest.raises(ValueError, match='stem of three convolutions'):
        verify(convert(plain), 'resnet18d')
    model = timm.create_model('resnet18')
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match='unknown'):
        verify(convert(snr, drop_classifier=True), model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match='no name'):
        verify(convert({k: v for k, v in plain.items() if not k.startswith('layer4')}))


def test_style_layers_that_a_plain_checkpoint_lacks_are_left_at_init(plain):
    conversion = convert(plain)
    verify(conversion, 'resnet18_snr')
    assert len(conversion.report.left) == 18
    assert all('.style.snr.' in key for key in conversion.report.left)
