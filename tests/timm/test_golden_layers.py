"""The authors' numbers for mixing layers and norm layers."""

import copy

import pytest
import torch
from expected import LONELY
from golden_data import assert_matches, load
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from timm_stylenorm import add_style
from timm_stylenorm.functional import efdmix, mixstyle, uncertain_style
from timm_stylenorm.layers import (
    DSU,
    IBN,
    BatchInstanceNorm1d,
    BatchInstanceNorm2d,
    BatchInstanceNorm3d,
    CrossNorm,
    DomainNorm2d,
    EFDMix,
    MixStyle,
    SelfNorm,
)
from timm_stylenorm.layers.base import beta
from timm_stylenorm.layers.cnsn import _box
from timm_stylenorm.layers.mixing import mixing_partners

pytestmark = LONELY

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('name', ['mixstyle_random_a', 'mixstyle_crossdomain_a', 'efdmix_random_a', 'dsu_a'])
def test_drawn_styles_match(name, memory_format):
    d = load(name)
    x = d['x'].contiguous(memory_format=memory_format).requires_grad_()
    if name.startswith('mixstyle'):
        y = mixstyle(x, d['perm'], d['lmda'], float(d['eps']))
    elif name.startswith('efdmix'):
        y = efdmix(x, d['perm'], d['lmda'])
    else:
        y = uncertain_style(x, d['eps_mean'], d['eps_std'], float(d['eps']))
    assert_matches(y, d['y'])
    assert_matches(torch.autograd.grad(y, x, d['grad_out'])[0], d['grad_x'])


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('name', ['bin_a', 'ibn_a_a'])
def test_norm_layers_match(name, memory_format):
    d = load(name)
    layer = BatchInstanceNorm2d(6) if name == 'bin_a' else IBN(8)
    layer.load_state_dict({k[6:]: v for k, v in d.items() if k.startswith('param.')}, strict=False)
    x = d['x'].contiguous(memory_format=memory_format).requires_grad_()
    for mode in ('eval', 'train'):
        y = layer.train(mode == 'train')(x)
        assert_matches(y, d[f'y_{mode}'])
        g_x, *gradients = torch.autograd.grad(y, [x, *layer.parameters()], d['grad_out'])
        assert_matches(g_x, d[f'grad_x_{mode}'])
        for (key, _), g in zip(layer.named_parameters(), gradients, strict=True):
            assert_matches(g, d[f'grad_{mode}.{key.removeprefix("bn.")}'])
    for key, buffer in layer.named_buffers():
        if buffer.is_floating_point():
            assert_matches(buffer, d[f'after.{key.removeprefix("bn.")}'])
        else:
            assert buffer == 1


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('domainnorm_l2_a', {}),
        ('domainnorm_nol2_a', dict(l2=False)),
        ('domainnorm_reversed_a', dict(order='l2_first')),
    ],
)
def test_domain_norm_matches(name, options):
    d = {k.replace('normalize.', ''): v for k, v in load(name).items()}
    layer = DomainNorm2d(d['x'].shape[1], **options)
    layer.load_state_dict({k: d[f'param.{k}'].flatten() for k in ('weight', 'bias')})
    x = d['x'].requires_grad_()
    y = layer(x)
    assert_matches(y, d['y'])
    g_x, *gradients = torch.autograd.grad(y, [x, layer.weight, layer.bias], d['grad_out'])
    assert_matches(g_x, d['grad_x'])
    for key, g in zip(('weight', 'bias'), gradients, strict=True):
        assert_matches(g, d[f'grad.{key}'].flatten())


def test_domain_norm_gradients():
    layer, x = DomainNorm2d(4).double(), torch.randn(2, 4, 3, 2, dtype=torch.double, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, *parameters: layer(x), (x, layer.weight, layer.bias))


@pytest.mark.parametrize('two', [False, True])
def test_selfnorm_equals_its_modules_in_float64(two):
    """A plain formula through the layer's own Conv1d and BatchNorm1d."""
    layer = SelfNorm(4, two=two).double()
    plain = copy.deepcopy(layer)
    x = torch.randn(3, 4, 3, 2, dtype=torch.double)
    for training in (True, False):
        layer.train(training), plain.train(training)
        mean, std = x.mean((2, 3)), (x.var((2, 3)) + 1e-12).sqrt()
        statistics = torch.stack([mean, std], -1)
        g = plain.g_bn(plain.g_fc(statistics)).sigmoid()[..., None]
        f = plain.f_bn(plain.f_fc(statistics)).sigmoid()[..., None] if two else g
        torch.testing.assert_close(layer(x), x * g + mean[..., None, None] * (f - g), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(layer.g_bn.running_var, plain.g_bn.running_var, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('crop', ['neither', 'style', 'content', 'both'])
@pytest.mark.parametrize('channels', [False, True])
def test_crossnorm_changes_statistics_and_has_gradients(crop, channels):
    layer = CrossNorm(p=1, crop=crop, channels=channels).train()
    x = torch.randn(4, 6, 9, 9, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert not torch.equal(y, x)
    assert x.grad.isfinite().all()
    assert layer.eval()(x) is x


def test_boxes_cover_more_than_a_tenth_and_are_cut_at_the_border():
    boxes = [_box(20, 40) for _ in range(1000)]
    sizes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes]
    assert all(0 <= s.start < s.stop <= limit for box in boxes for s, limit in zip(box, (20, 40), strict=True))
    areas = sorted(height * width / 800 for height, width in sizes)
    assert 0.1 < areas[0] < 0.12
    assert areas[-1] > 0.7
    starts, ends = {rows.start for rows, _ in boxes}, {columns.stop for _, columns in boxes}
    assert starts == {*range(max(starts) + 1)}
    assert max(starts) > 10
    assert 40 in ends
    inner = [(r, c) for r, c in boxes if min(r.start, c.start) > 0 and r.stop < 20 and c.stop < 40]
    assert len(inner) > 50
    assert all(abs((c.stop - c.start) - 2 * (r.stop - r.start)) <= 2 for r, c in inner)


def test_what_is_drawn_for_a_box_is_its_share_of_the_map(monkeypatch):
    monkeypatch.setattr(torch, 'rand', lambda size: torch.tensor(0.75))
    boxes = [_box(20, 40) for _ in range(100)]
    assert max((r.stop - r.start) * (c.stop - c.start) for r, c in boxes) == 0.25 * 20 * 40


def test_a_box_is_drawn_at_most_a_hundred_times():
    torch.manual_seed(3)
    assert _box(1, 1) == (slice(None), slice(None))  # half of one pixel is none
    after = torch.get_rng_state()
    torch.manual_seed(3)
    for _ in range(100):
        torch.rand(()), torch.randint(1, ()), torch.randint(1, ())
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize('crop', ['style', 'content', 'both'])
def test_crossnorm_takes_and_gives_statistics_in_boxes(crop, monkeypatch):
    boxes = [(slice(1, 5), slice(2, 8)), (slice(3, 9), slice(0, 6))]
    drawn = iter(boxes)
    monkeypatch.setattr('timm_stylenorm.layers.cnsn._box', lambda height, width: next(drawn))
    x = torch.randn(4, 3, 9, 9, dtype=torch.double)
    torch.manual_seed(1)
    y = CrossNorm(p=1, crop=crop).train()(x)
    torch.manual_seed(1)
    perm = torch.randperm(4)
    whole = slice(None), slice(None)
    source, target = {'style': (boxes[0], whole), 'content': (whole, boxes[0]), 'both': boxes}[crop]
    expected = x.clone()
    for n in range(4):
        for c in range(3):
            inside, style = x[n, c][target], x[perm[n], c][source]
            deviation = ((style.var() + 1e-5) / (inside.var() + 1e-5)).sqrt()
            expected[n, c][target] = (inside - inside.mean()) * deviation + style.mean()
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize('alpha', [0.3, 1.0, 2.5])
def test_shares_are_drawn_from_a_symmetric_beta_distribution(alpha):
    shares = beta(alpha, 20000, torch.empty(0))
    assert shares.dtype == torch.float32
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_shares_are_drawn_within_one_graph():
    compiled = torch.compile(lambda x: x * beta(0.1, len(x), x)[:, None], fullgraph=True, backend='eager')
    y = compiled(torch.ones(5, 2))
    assert torch.equal(y[:, 0], y[:, 1])
    assert y.unique().numel() > 1


def test_mixing_keeps_no_map_for_backward():
    kept = []
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        mixstyle(x, torch.randperm(4), torch.rand(4))
    assert all(t.numel() <= 12 for t in kept)


def test_partners_come_from_the_other_half_or_another_domain():
    for _ in range(20):
        partners = mixing_partners(6, 'crossdomain', torch.zeros(1))
        assert sorted(partners.tolist()) == list(range(6))
        assert (partners[:3] >= 3).all()
        domains = torch.tensor([0, 0, 1, 1, 1, 2])
        partners = mixing_partners(6, 'random', torch.zeros(1), domains)
        assert (domains[partners] != domains).all()
    assert mixing_partners(2, 'random', torch.zeros(1), torch.tensor([0, 0])).tolist() == [0, 1]


@pytest.mark.parametrize('layer', [MixStyle(p=1), EFDMix(p=1, mix='crossdomain'), DSU(p=1), CrossNorm(p=1)], ids=str)
@pytest.mark.parametrize('n', [1, 5])
def test_any_batch_gives_finite_values(layer, n):
    x = torch.randn(n, 3, 4, 4, requires_grad=True)
    y = layer.train()(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ('cls', 'shape'),
    [(BatchInstanceNorm1d, (3, 4, 6)), (BatchInstanceNorm2d, (3, 4, 6, 5)), (BatchInstanceNorm3d, (3, 4, 2, 3, 2))],
)
def test_bin_between_batch_norm_and_instance_norm(cls, shape):
    layer, x = cls(4).double(), torch.randn(shape, dtype=torch.double)
    batch = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](4).double()
    torch.testing.assert_close(layer(x), batch(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.running_var, batch.running_var, rtol=1e-9, atol=1e-9)
    nn.init.zeros_(layer.gate)
    torch.testing.assert_close(layer(x), nn.functional.instance_norm(x), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=f'expected {len(shape)} dimensions'):
        layer(x[..., None])


@pytest.mark.parametrize('ratio', [0.25, 0.5, 0.8])
def test_ibn_takes_any_ratio_and_odd_channels(ratio):
    layer, x = IBN(7, ratio=ratio).double(), torch.randn(3, 7, 4, 4, dtype=torch.double)
    half = int(7 * ratio)
    expected = torch.cat([nn.functional.instance_norm(x[:, :half]), nn.BatchNorm2d(7 - half).double()(x[:, half:])], 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


def test_ibn_follows_a_converted_batch_norm():
    layer = IBN(6)
    layer.BN = nn.GroupNorm(3, 3)  # stands for a SyncBatchNorm, which needs a GPU
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(layer(x)[:, 3:], nn.functional.group_norm(x[:, 3:], 3), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match='both need one'):
        IBN(3, ratio=0.1)


@pytest.mark.parametrize('make', [lambda d: MixStyle(p=1), lambda d: DSU(p=1), lambda d: SelfNorm(5)])
def test_tokens_and_channels_last_equal_the_map(make):
    """`channel_dim=-1`, with class tokens left alone."""
    layer, x = make(5).train(), torch.randn(3, 5, 4, 2)
    torch.manual_seed(0)
    expected = copy.deepcopy(layer)(x).flatten(2).transpose(1, 2)
    layer.channel_dim, layer.prefix_tokens = -1, 2
    tokens = torch.cat([torch.randn(3, 2, 5), x.flatten(2).transpose(1, 2)], 1)
    torch.manual_seed(0)
    y = layer(tokens)
    assert torch.equal(y[:, :2], tokens[:, :2])
    torch.testing.assert_close(y[:, 2:], expected, rtol=1e-4, atol=1e-5)
    layer.enabled = False
    assert layer(tokens) is tokens


@pytest.mark.parametrize(
    ('name', 'block', 'style'),
    [
        ('ibn_a_block_a', lambda: BasicBlock(6, 6), dict(type='ibn_a', sites='stage1.norm1')),
        ('ibn_b_block_a', lambda: Bottleneck(16, 4), dict(type='ibn_b', sites='stage1.sum')),
    ],
)
def test_ibn_blocks_match(name, block, style):
    d = load(name)
    model = nn.Module()
    model.layer1 = nn.Sequential(block())
    add_style(model, style)
    names = {'IN.weight': 'act3.style.ibn_b.weight', 'IN.bias': 'act3.style.ibn_b.bias'}
    state = {f'layer1.0.{names.get(k[6:], k[6:])}': v for k, v in d.items() if k.startswith('param.')}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], [])
    for mode in ('eval', 'train'):
        model.train(mode == 'train').zero_grad()
        x = d['x'].clone().requires_grad_()
        y = model.layer1(x)
        assert_matches(y.detach(), d[f'y_{mode}'])
        y.backward(d['grad_out'])
        assert_matches(x.grad, d[f'grad_x_{mode}'])
        for key, g in d.items():
            if key.startswith(f'grad_{mode}.'):
                own = key.partition('.')[2]
                assert_matches(model.get_parameter(f'layer1.0.{names.get(own, own)}').grad, g)
    buffers = dict(model.named_buffers())
    for key, value in d.items():
        if key.startswith('after.'):
            assert_matches(buffers[f'layer1.0.{key[6:]}'].float(), value.float())
