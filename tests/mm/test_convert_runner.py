"""What the Runner saved of a classifier comes back to timm, styled or plain."""

import pytest
import timm
import torch
from safetensors.torch import load_file

pytest.importorskip('mmengine')
import convert_checkpoint
from mmengine.registry import MODELS
from nets import THIN

import timm_stylenorm
import timm_stylenorm.classification
from timm_stylenorm.convert import convert
from timm_stylenorm.methods import ROWS as METHODS

OTHERS = {'padain': 'resnet26d', 'snr': 'convnext_atto', 'mixstyle': 'mobilenetv3_small_100', 'selfnorm': 'regnetx_002'}
AUTHORS = ('bin', 'debiased', 'ibn_a', 'snr')  # whose keys the converter knows
NO_PLAIN = ('ibn_a', 'ibn_b', 'bin', 'domainnorm', 'irw', 'isw')  # they take the place of batch norms
CNN = {m: 'resnet18' if m in (*AUTHORS, *NO_PLAIN) else 'regnetx_002' for m in METHODS}
NARROW = {'resnet18': THIN, 'resnet26d': THIN}
NARROW |= {'regnetx_002': {'depth': 8}}  # the converter tells a ResNet by its number of blocks
# one of each kind: without parameters, with them, an authors' one, a dual batch norm, in place of a batch norm
KINDS = [('padain', 'resnet26d'), ('selfnorm', 'regnetx_002'), ('snr', 'convnext_atto'), ('snr', 'resnet18')]
KINDS += [('advbn', 'regnetx_002'), ('debiased', 'resnet18'), ('ibn_a', 'resnet18'), ('isw', 'resnet18')]
RUNS = [
    pytest.param(*run, marks=() if run in KINDS else pytest.mark.slow)
    for run in dict.fromkeys([*CNN.items(), *OTHERS.items()])
]


def saved(path, arch, method):
    """A classifier with drawn weights and statistics, and its checkpoint as the Runner lays it out."""
    torch.manual_seed(0)
    cfg = dict(type='StyleNormClassifier', model=arch, num_classes=5, style=method, **NARROW.get(arch, {}))
    model = MODELS.build(cfg)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not key.startswith('data_preprocessor'):
            value.add_(torch.rand_like(value) * 0.1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    content = {'meta': {'epoch': 1, 'cfg': 'x'}, 'state_dict': model.state_dict(), 'optimizer': optimizer.state_dict()}
    torch.save(content, path)
    return model.net.eval()


@pytest.mark.parametrize(('method', 'arch'), RUNS)
@pytest.mark.some(2)
def test_timm_reads_what_the_runner_trained(method, arch, tmp_path):
    net = saved(tmp_path / 'epoch_1.pth', arch, method)
    convert_checkpoint.main([str(tmp_path / 'epoch_1.pth'), str(tmp_path / 'net.safetensors')])
    assert set(load_file(tmp_path / 'net.safetensors')) == set(net.state_dict())
    timm_stylenorm.register_variants(arch, [method])
    options = dict(num_classes=5, checkpoint_path=str(tmp_path / 'net.safetensors'), **NARROW.get(arch, {}))
    model = timm.create_model(f'{arch}_{method}', **options).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), net(images), rtol=0, atol=0)


@pytest.mark.parametrize(('method', 'arch'), RUNS)
@pytest.mark.some(2)
def test_the_plain_network_goes_without_this_package(method, arch, tmp_path):
    net = saved(tmp_path / 'epoch_1.pth', arch, method)
    line = [str(tmp_path / 'epoch_1.pth'), str(tmp_path / 'net.pth'), '--plain']
    if method in NO_PLAIN:
        with pytest.raises(SystemExit, match=r'replaced batch norms of resnet18|has no plain network in it'):
            convert_checkpoint.main(line)
        assert not (tmp_path / 'net.pth').exists()
        return
    convert_checkpoint.main(line)
    options = dict(num_classes=5, checkpoint_path=str(tmp_path / 'net.pth'), **NARROW.get(arch, {}))
    model = timm.create_model(arch, **options).eval()
    images = torch.randn(2, 3, 64, 64)
    with timm_stylenorm.style_disabled(net):
        torch.testing.assert_close(model(images), net(images), rtol=0, atol=0)


def test_timms_backbone_in_a_segmentor_is_taken_out():
    net = timm.create_model('resnet18_snr', style=dict(sites='stage2', num_classes=3)).state_dict()
    state = {f'backbone.timm_model.{key}': value for key, value in net.items()}
    state |= {'decode_head.conv_seg.weight': torch.zeros(3, 4, 1, 1), 'auxiliary_head.0.bias': torch.zeros(3)}
    for prefix in ('', 'module.'):
        conversion = convert({prefix + key: value for key, value in state.items()})
        assert conversion.state_dict.keys() == net.keys()
        assert len(conversion.report.dropped) == 2
        assert conversion.style == {'type': 'snr', 'num_classes': 3, 'sites': ['layer2.1']}
        assert conversion.model == 'resnet18_snr'


def test_keys_of_a_styled_timm_model_are_no_authors_keys():
    with pytest.raises(ValueError, match='keys of this package already'):
        convert(timm.create_model('resnet18_snr').state_dict())
    with pytest.raises(ValueError, match=r"starts with 'net\.' or 'backbone\.timm_model\.'"):
        convert(timm.create_model('resnet18').state_dict(), 'runner')
