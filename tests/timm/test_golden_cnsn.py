"""The authors' numbers for CrossNorm and SelfNorm: layers, blocks with them at all places, and a whole network."""

import pytest
import torch
import torch.nn.functional as F
from expected import LONELY
from golden_data import assert_matches, authors_state, load, load_keys, sample
from timm.models.resnet import Bottleneck
from torch import nn

import timm_stylenorm
from timm_stylenorm.convert import convert, export, verify
from timm_stylenorm.functional import consistency_loss, crop_box, crossnorm
from timm_stylenorm.layers import CrossNorm, SelfNorm

pytestmark = LONELY
FORMATS = [torch.contiguous_format, torch.channels_last]
NETWORK = 'net_selfnorm_resnet50'


def box_of(d, name):
    if name not in d:
        return None
    first_row, first_column, end_row, end_column = d[name].tolist()
    return slice(first_row, end_row), slice(first_column, end_column)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('name', ['neither', 'style', 'content', 'both', 'channels', 'one_instance'])
def test_crossnorm_matches(name, memory_format):
    d = load(f'crossnorm_{name}_a')
    x = d['x'].contiguous(memory_format=memory_format).requires_grad_()
    y = crossnorm(x, d['perm'], d.get('chan_perm'), box_of(d, 'style_box'), box_of(d, 'content_box'))
    assert_matches(y, d['y'])
    assert_matches(torch.autograd.grad(y, x, d['grad_out'])[0], d['grad_x'])


@pytest.mark.parametrize('crop', ['neither', 'style', 'content', 'both'])
def test_a_share_of_the_map_stays(crop):
    x = torch.randn(4, 3, 9, 8, dtype=torch.double)
    boxes = [(slice(1, 6), slice(2, 7)) if crop in (kind, 'both') else None for kind in ('style', 'content')]
    perm = torch.tensor([2, 0, 3, 1])
    mixed = crossnorm(x, perm, None, *boxes, lam=0.3)
    torch.testing.assert_close(mixed, 0.3 * x + 0.7 * crossnorm(x, perm, None, *boxes))


def test_boxes_match():
    d = load('crossnorm_box_a')
    rows = zip(d['size'].tolist(), d['share'].tolist(), d['centre'].tolist(), d['accepted'].tolist(), strict=True)
    for i, (size, share, centre, accepted) in enumerate(rows):
        (rows_, columns), large = crop_box(*size, share, centre)
        assert [rows_.start, columns.start, rows_.stop, columns.stop] == d['box'][i].tolist()
        assert large == bool(accepted)


def test_consistency_matches():
    d = load('crossnorm_consistency_a')
    names = ('clean', 'aug1', 'aug2')
    logits = [d[f'logits_{name}'].requires_grad_() for name in names]
    loss = F.cross_entropy(logits[0], d['target']) + d['weight'] * consistency_loss(*logits)
    assert_matches(loss, d['loss'])
    for name, gradient in zip(names, torch.autograd.grad(loss, logits), strict=True):
        assert_matches(gradient, d[f'grad_{name}'])


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('name', ['selfnorm_one_a', 'selfnorm_two_a'])
def test_selfnorm_matches(name, memory_format):
    d = load(name)
    layer = SelfNorm(d['x'].shape[1], two=bool(d['two']))
    layer.load_state_dict({k[6:]: v for k, v in d.items() if k.startswith('param.')}, strict=False)
    x = d['x'].contiguous(memory_format=memory_format).requires_grad_()
    for mode in ('eval', 'train'):
        y = layer.train(mode == 'train')(x)
        assert_matches(y, d[f'y_{mode}'])
        g_x, *gradients = torch.autograd.grad(y, [x, *layer.parameters()], d['grad_out'])
        assert_matches(g_x, d[f'grad_x_{mode}'])
        for (key, _), g in zip(layer.named_parameters(), gradients, strict=True):
            assert_matches(g, d[f'grad_{mode}.{key}'])
    for key, buffer in layer.named_buffers():
        assert_matches(buffer.float(), d[f'after.{key}'].float())


class Stage(nn.Module):
    """A network of one block, so that sites can be named as in any other."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(Bottleneck(16, 4))

    def forward(self, x):
        return self.layer1(x)


BLOCKS = {
    'selfnorm_block_post_a': [dict(type='selfnorm', sites='blocks.sum')],
    'selfnorm_block_residual_a': [dict(type='selfnorm', sites='blocks.residual')],
    'crossnorm_selfnorm_block_post_a': [
        dict(type='crossnorm', sites='blocks.sum', p=1.0),
        dict(type='selfnorm', sites='blocks.sum'),
    ],
    'crossnorm_selfnorm_block_seg_a': [
        dict(type='selfnorm', sites='blocks.residual'),
        dict(type='crossnorm', sites='blocks', p=1.0),
    ],
}


@pytest.mark.parametrize('name', BLOCKS)
def test_blocks_match(name, monkeypatch):
    d = load(name)
    net = timm_stylenorm.add_style(Stage(), BLOCKS[name])
    place = 'layer1.0.act3' if 'post' in name else 'layer1.0.bn3'

    def ours(key):
        return key.replace('cnsn.selfnorm', f'{place[9:]}.style.selfnorm')

    state = {f'layer1.0.{ours(key[6:])}': value for key, value in d.items() if key.startswith('param.')}
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(key.endswith('num_batches_tracked') for key in missing)
    if 'perm' in d:
        monkeypatch.setattr('timm_stylenorm.layers.cnsn.torch.randperm', lambda n, device=None: d['perm'])
    x, parameters = d['x'].requires_grad_(), dict(net.named_parameters())
    for mode in ('eval', 'train'):
        y = net.train(mode == 'train')(x)
        assert_matches(y, d[f'y_{mode}'])
        g_x, *gradients = torch.autograd.grad(y, [x, *parameters.values()], d['grad_out'])
        assert_matches(g_x, d[f'grad_x_{mode}'])
        found = dict(zip(parameters, gradients, strict=True))
        expected = {k.removeprefix(f'grad_{mode}.'): v for k, v in d.items() if k.startswith(f'grad_{mode}.')}
        assert len(expected) == len(found)
        for key, gradient in expected.items():
            assert_matches(found[f'layer1.0.{ours(key)}'], gradient)
    buffers = dict(net.named_buffers())
    for key, value in d.items():
        if key.startswith('after.'):
            assert_matches(buffers[f'layer1.0.{ours(key[6:])}'], value)


@pytest.fixture(scope='module')
def network():
    conversion = convert(authors_state(NETWORK))
    assert conversion.model == 'resnet50_selfnorm'
    assert conversion.style == {'type': 'selfnorm', 'sites': 'blocks.sum'}
    assert not conversion.report.dropped
    return verify(conversion), conversion.report.mapped


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_the_network_matches(network, mode):
    net, names = network
    d, maps = load(NETWORK), {}
    hooks = [
        net.get_submodule(stage).register_forward_hook(lambda m, a, y, stage=stage: maps.__setitem__(stage, y))
        for stage in ('layer1', 'layer2', 'layer3', 'layer4')
    ]
    logits = net.train(mode == 'train')(d['x'])
    for hook in hooks:
        hook.remove()
    noise = max(20 * float(d[f'{mode}_logits_f64_maxdiff']), 1e-4)
    torch.testing.assert_close(logits, d[f'{mode}_logits'], rtol=0, atol=noise)
    for stage, value in maps.items():
        assert_matches(value.mean(), d[f'{mode}.{stage}.mean'])
        assert_matches(value.std(correction=0), d[f'{mode}.{stage}.std'])
        expected = d[f'{mode}.{stage}.sample']
        torch.testing.assert_close(sample(value), expected, rtol=0, atol=4e-3 * float(expected.abs().max()))
    if mode == 'eval':
        return
    loss = F.cross_entropy(logits, d['labels'])
    assert_matches(loss, d['train_loss'])
    net.zero_grad()
    loss.backward()
    parameters = dict(net.named_parameters())
    norms = torch.stack([parameters[names[key]].grad.norm() for key in load_keys(NETWORK)['parameters']])
    torch.testing.assert_close(norms, d['train_grad_norm'], rtol=0, atol=5e-3 * float(norms.max()))
    buffers = dict(net.named_buffers())
    for key in (key for key in d if key.startswith('after.')):
        found = buffers[names[key.removeprefix('after.')]]
        torch.testing.assert_close(found, d[key], rtol=0, atol=1e-3 * float(d[key].abs().max()))


def test_the_authors_get_their_keys_back():
    state = authors_state(NETWORK)
    back = export(verify(convert(state)).state_dict(), 'selfnorm').state_dict
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def with_ibn_b(state):
    """Of a resnet50, the keys of the authors' network with IBN-b."""
    kept = {k: v for k, v in state.items() if k in ('bn1.weight', 'bn1.bias') or not k.startswith('bn1.')}
    for block, width in (('layer1.2', 256), ('layer2.3', 512)):
        kept |= {f'{block}.IN.weight': torch.ones(width), f'{block}.IN.bias': torch.zeros(width)}
    return kept


@pytest.mark.slow
def test_the_place_is_that_of_the_released_network_with_ibn_b():
    conversion = convert(with_ibn_b(authors_state(NETWORK)))
    assert conversion.model == 'resnet50_ibn_b'
    assert conversion.style == [{'type': 'ibn_b'}, {'type': 'selfnorm', 'sites': 'blocks.residual'}]
    labels = [label for label, _ in timm_stylenorm.style_layers(verify(conversion))]
    assert sum(label.startswith('selfnorm') for label in labels) == 16
    assert export(conversion.state_dict, 'selfnorm').state_dict.keys() == with_ibn_b(authors_state(NETWORK)).keys()


@pytest.mark.slow
def test_selfnorm_after_the_sums_leaves_the_blocks_with_instance_norm_out():
    state = {
        key: value
        for key, value in with_ibn_b(authors_state(NETWORK)).items()
        if not key.startswith(('layer1.2.cnsn', 'layer2.3.cnsn'))
    }
    conversion = convert(state)
    assert 'layer1.0.act3.style.selfnorm.g_fc.weight' in conversion.state_dict
    places = conversion.style[1]['sites']
    assert len(places) == 14
    assert 'layer1.2.sum' not in places
    verify(conversion)


@pytest.mark.slow
def test_a_network_with_selfnorm_before_the_sums_is_named():
    conversion = convert(authors_state(NETWORK), 'selfnorm-residual')
    assert conversion.style == {'type': 'selfnorm', 'sites': 'blocks.residual'}
    assert 'layer4.2.bn3.style.selfnorm.g_bn.weight' in verify(conversion).state_dict()
    assert any('selfnorm-residual' in note for note in convert(authors_state(NETWORK)).report.notes)


def test_a_network_of_crossnorm_alone_is_a_plain_one():
    state = {key: value for key, value in authors_state(NETWORK).items() if 'cnsn' not in key}
    assert convert(state, 'crossnorm').style is None


def test_nothing_is_detached():
    x = torch.randn(3, 2, 4, 4, dtype=torch.double, requires_grad=True)
    layer = CrossNorm(p=1).train()

    def draw(x):
        torch.manual_seed(0)
        return layer(x)

    assert torch.autograd.gradcheck(draw, x)
