"""Stylisers: what each takes for style, which images and files they take, and what they say about others."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_data import assert_matches, load
from torch import nn

from timm_stylenorm.functional import adain
from timm_stylenorm.recipes import STYLISERS, build_styliser, vgg
from timm_stylenorm.recipes.stylisers import Styliser, lab_to_rgb, rgb_to_lab

# The published files, as (key, shape): vgg_normalised.pth goes on to relu5_4.
CHANNELS = {0: (3, 3), 2: (64, 3), 5: (64, 64), 9: (128, 64), 12: (128, 128), 16: (256, 128), 19: (256, 256)}
CHANNELS |= {22: (256, 256), 25: (256, 256), 29: (512, 256), 32: (512, 512), 35: (512, 512), 38: (512, 512)}
DECODER = {1: (256, 512), 5: (256, 256), 8: (256, 256), 11: (256, 256), 14: (128, 256), 18: (128, 128)}
DECODER |= {21: (64, 128), 25: (64, 64), 28: (3, 64)}


def published(channels):
    state = {}
    for key, (out, into) in channels.items():
        size = 1 if into == out == 3 else 3
        state[f'{key}.weight'] = torch.randn(out, into, size, size) * (2 / (into * size**2)) ** 0.5
        state[f'{key}.bias'] = torch.zeros(out)
    return state


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('adain')
    torch.manual_seed(0)
    torch.save(published(CHANNELS), folder / 'vgg_normalised.pth')
    torch.save(published(DECODER), folder / 'decoder.pth')
    return {'encoder': str(folder / 'vgg_normalised.pth'), 'decoder': str(folder / 'decoder.pth')}


@pytest.fixture(params=sorted(STYLISERS))
def styliser(request, files):
    return build_styliser({'type': request.param, **(files if request.param == 'adain' else {})})


def images(n=3, channels=3, size=(24, 31)):
    """Smooth ones, with colours of their own."""
    coarse = F.interpolate(torch.rand(n, channels, 5, 5), size, mode='bicubic').clamp(0, 1)
    return 0.2 + 0.5 * coarse * torch.rand(n, channels, 1, 1)


def test_images_stay_images(styliser):
    x = images().requires_grad_()
    y = styliser(x, x.flip(0), 0.7)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert not y.requires_grad
    assert 0 <= float(y.min()) < float(y.max()) <= 1
    assert not torch.equal(y, x)


def test_indices_name_the_style_images(styliser):
    x, index = images(), torch.tensor([2, 0, 0])
    torch.testing.assert_close(styliser(x, index, 0.5), styliser(x, x[index], 0.5), rtol=0, atol=1e-5)


def test_an_image_does_not_depend_on_others_of_its_batch(styliser):
    x, style = images(), images()
    torch.testing.assert_close(styliser(x, style)[1:2], styliser(x[1:2], style[1:2]), rtol=0, atol=1e-4)


def test_half_precision_goes_in_and_comes_out(styliser):
    x = images()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        y = styliser(x.bfloat16(), x.flip(0).bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), styliser(x, x.flip(0)), rtol=0, atol=0.1)


@pytest.mark.parametrize('alpha', [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(styliser, alpha):
    with pytest.raises(ValueError, match='0 <= alpha <= 1'):
        styliser(images(), images(), alpha)


@pytest.mark.parametrize('x', [torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 16)])
def test_other_things_than_images_are_refused(styliser, x):
    with pytest.raises(ValueError, match=r'expected images \(N, C, H, W\) of values in \[0, 1\], got torch'):
        styliser(x, x)


@pytest.mark.parametrize('name', ['fourier', 'pixel'])
@pytest.mark.parametrize('channels', [1, 3, 6])
def test_no_style_and_the_own_style_change_nothing(name, channels):
    x = images(channels=channels)
    for y in (build_styliser(name)(x, x.flip(0), 0.0), build_styliser(name)(x, x, 1.0)):
        torch.testing.assert_close(y, x, rtol=0, atol=2e-4)


@pytest.mark.parametrize('channels', [1, 4])
def test_pixel_statistics_become_those_of_the_style(channels):
    x, style = images(channels=channels) + 0.1, images(channels=channels) + 0.1
    y = build_styliser('pixel')(x, style)
    torch.testing.assert_close(y.mean((2, 3)), style.mean((2, 3)), rtol=0, atol=1e-3)
    torch.testing.assert_close(y.std((2, 3)), style.std((2, 3)), rtol=0, atol=1e-2)


def test_pixel_works_in_lab_for_rgb():
    x, style = images(), images()
    y = rgb_to_lab(build_styliser('pixel')(x, style, 0.5))
    want = 0.5 * rgb_to_lab(x) + 0.5 * adain(rgb_to_lab(x), rgb_to_lab(style))
    inside = ((lab_to_rgb(want) >= 0) & (lab_to_rgb(want) <= 1)).all(1, keepdim=True).expand_as(y)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(y[inside], want[inside], rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ('rgb', 'lab'),  # the CIE's values for sRGB's primaries
    [
        ((1, 1, 1), (100, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((0.02, 0.02, 0.02), (1.40, 0, 0)),
    ],
)
def test_lab_has_known_colours(rgb, lab):
    got = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1))
    torch.testing.assert_close(got.flatten(), torch.tensor(lab, dtype=torch.float32), rtol=0, atol=0.02)


def test_lab_has_an_inverse():
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(x)), x, rtol=0, atol=1e-5)


def test_fourier_takes_amplitudes_below_a_frequency_and_keeps_the_rest():
    x, style = 0.4 + 0.1 * images(size=(20, 30)), 0.4 + 0.1 * images(size=(20, 30))
    y = build_styliser({'type': 'fourier', 'beta': 0.1})(x, style)
    got, own, other = (torch.fft.fft2(v.double()) for v in (y, x, style))
    for row in range(20):
        for column in range(30):
            low = min(row, 20 - row) <= 2 and min(column, 30 - column) <= 2
            at = (..., row, column)
            torch.testing.assert_close(got[at].abs(), (other if low else own)[at].abs(), rtol=1e-3, atol=1e-3)
            angle = (got[at] * own[at].conj()).angle()
            assert float(angle.abs().max()) < 0.05 or float(own[at].abs().min()) < 1e-2


def test_fourier_needs_one_size():
    with pytest.raises(ValueError, match='one shape'):
        build_styliser('fourier')(images(size=(24, 31)), images(size=(24, 24)))


@pytest.mark.parametrize('name', ['adain', 'pixel'])
def test_the_style_may_have_another_size(name, files):
    chosen = build_styliser({'type': name, **(files if name == 'adain' else {})})
    assert chosen(images(), images(size=(16, 40))).shape == images().shape


def test_adain_mixes_as_the_authors_do():
    data = load('shape_texture_a')
    mixed = Styliser().mix(data['content'], data['style'], float(data['alpha']))
    assert_matches(mixed, data['adain_blend'])


def test_adain_and_its_gradients_are_the_authors():
    data = load('shape_texture_a')
    content, style = (data[k].requires_grad_() for k in ('content', 'style'))
    y = adain(content, style)
    assert_matches(y, data['adain_y'])
    gradients = torch.autograd.grad(y, [content, style], data['adain_grad_out'])
    assert_matches(gradients[0], data['adain_grad_content'])
    assert_matches(gradients[1], data['adain_grad_style'])


def test_the_published_layouts_are_read_as_they_are(files):
    """The networks of the files, step by step."""
    state, x = torch.load(files['encoder'], weights_only=True), images()
    taps, y = {}, F.conv2d(x, state['0.weight'], state['0.bias'])
    for key in list(CHANNELS)[1:10]:
        y = F.relu(F.conv2d(F.pad(y, (1, 1, 1, 1), mode='reflect'), state[f'{key}.weight'], state[f'{key}.bias']))
        taps[key] = y
        if key in (5, 12, 25):
            y = F.max_pool2d(y, 2, ceil_mode=True)
    found = vgg.features(vgg.load_encoder(files['encoder']), x)
    for got, key in zip(found, (2, 9, 16, 29), strict=True):
        torch.testing.assert_close(got, taps[key])
    state = torch.load(files['decoder'], weights_only=True)
    for key in DECODER:
        y = F.conv2d(F.pad(y, (1, 1, 1, 1), mode='reflect'), state[f'{key}.weight'], state[f'{key}.bias'])
        y = F.relu(y) if key != 28 else y
        if key in (1, 14, 21):
            y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(vgg.load_decoder(files['decoder'])(found[-1]), y)


def test_the_encoder_of_timms_vgg19_normalises_and_computes_its_features(tmp_path):
    net = timm.create_model('vgg19', num_classes=0, mlp_ratio=0.01).eval()
    torch.save(net.state_dict(), tmp_path / 'vgg19.pth')
    x = images(1, size=(96, 96))
    mean, std = (torch.tensor(net.pretrained_cfg[k]).view(-1, 1, 1) for k in ('mean', 'std'))
    want = net.features[:21]((x - mean) / std)
    got = vgg.load_encoder(tmp_path / 'vgg19.pth')(x)
    inner = (..., slice(5, -5), slice(5, -5))  # padding is by reflection here, by zeros there
    torch.testing.assert_close(got[inner], want[inner], rtol=1e-4, atol=1e-5)


def test_normalised_filters_are_active_by_one_and_compute_the_same(files):
    plain, x = vgg.load_encoder(files['encoder']), images(8)
    scaled = vgg.normalise(copy.deepcopy(plain), [x[:4], x[4:]])
    for before, after in zip(vgg.features(plain, x), vgg.features(scaled, x), strict=True):
        often = before.mean((0, 2, 3)) > before.mean() / 50
        assert often.float().mean() > 0.5
        torch.testing.assert_close(after.mean((0, 2, 3))[often], torch.ones(int(often.sum())), rtol=1e-3, atol=0)
        factor = before.mean((0, 2, 3))[often].view(-1, 1, 1)
        torch.testing.assert_close(after[:, often] * factor, before[:, often], rtol=1e-3, atol=1e-4)


def test_adain_takes_grey_images_and_odd_sizes_from_9_pixels(files):
    chosen = build_styliser({'type': 'adain', **files})
    assert chosen(images(channels=1, size=(9, 13)), torch.tensor([1, 2, 0])).shape == (3, 1, 9, 13)
    for x in (images(channels=2), images(size=(8, 20))):
        with pytest.raises(ValueError, match='RGB or grey images of at least 9 x 9'):
            chosen(x, x)


def test_adain_says_where_missing_weights_come_from(files):
    for kind in ('encoder', 'decoder'):
        with pytest.raises(FileNotFoundError, match=rf"no {kind} .*'nowhere.pth'.*release.*tools/train_styliser.py"):
            build_styliser({'type': 'adain', **files, kind: 'nowhere.pth'})


def test_adain_refuses_other_files(files, tmp_path):
    with pytest.raises(ValueError, match=r"is no encoder .* expected '0.weight' of shape \(3, 3, 1, 1\), got nothing"):
        build_styliser({'type': 'adain', 'encoder': files['decoder'], 'decoder': files['decoder']})
    with pytest.raises(ValueError, match='is no decoder'):
        build_styliser({'type': 'adain', 'encoder': files['encoder'], 'decoder': files['encoder']})
    code = tmp_path / 'code.pth'
    torch.save({'0.weight': nn.Linear(1, 1)}, code)
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(b'no weights')
    for path in (code, broken):
        with pytest.raises(ValueError, match=r'damaged, cut short|it holds more than weights'):
            build_styliser({'type': 'adain', **files, 'encoder': str(path)})


@pytest.mark.parametrize(('name', 'told'), [('vgg19_bn', 'batch norms'), ('vgg16', 'is no encoder')])
def test_other_vggs_are_refused(name, told, tmp_path):
    torch.save(timm.create_model(name, num_classes=0, mlp_ratio=0.01).state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=told):
        vgg.load_encoder(tmp_path / 'other.pth')


def test_a_copy_of_a_host_shares_the_networks(files):
    chosen = build_styliser({'type': 'adain', **files})
    assert copy.deepcopy({'recipe': chosen})['recipe'] is chosen


def test_unknown_stylisers_and_arguments_are_named():
    with pytest.raises(ValueError, match="unknown styliser 'fourrier'; did you mean 'fourier'"):
        build_styliser('fourrier')
    with pytest.raises(TypeError, match="argument of styliser 'fourier': 'betta'; did you mean 'beta'"):
        build_styliser({'type': 'fourier', 'betta': 0.1})
    with pytest.raises(ValueError, match=r'0 <= beta <= 0\.5'):
        build_styliser({'type': 'fourier', 'beta': 0.6})
