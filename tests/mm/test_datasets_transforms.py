"""Gaussian blur and colour jitter: what they make of an image is what the authors' libraries make of it."""

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
from mmcv.transforms.utils import cache_random_params
from mmseg.registry import TRANSFORMS
from PIL import Image, ImageFilter
from skimage.filters import gaussian
from torchvision.transforms import ColorJitter as Torchvisions

import mmseg_stylenorm  # noqa: F401 (registers)


@pytest.fixture
def image():
    """Smooth BGR, with a sharp edge at the border and inside."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 8, 3), np.uint8))
    image = np.array(small.resize((64, 40), Image.BICUBIC))
    image[10:20, :16] = (250, 5, 120)
    return image


def applied(step, image, **files):
    return TRANSFORMS.build(step)({'img': image.copy(), **files})['img']


@pytest.mark.parametrize('sigma', [0.1, 0.15, 0.4, 0.7, 1.0, 1.3])
def test_blur_is_scikit_images(image, sigma):
    expected = gaussian(image, sigma=sigma, channel_axis=-1) * 255
    blurred = applied({'type': 'RandomGaussianBlur', 'prob': 1.0, 'sigma': (sigma, sigma)}, image)
    assert blurred.dtype == np.uint8
    assert np.abs(blurred - expected).max() < 1
    assert (sigma > 0.15) == (not np.array_equal(blurred, image))


@pytest.mark.parametrize('radius', [0.25, 0.5, 0.75, 1.0])
def test_blur_is_pillows_but_for_its_boxes(image, radius):
    smooth = np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)))
    expected = np.array(Image.fromarray(smooth).filter(ImageFilter.GaussianBlur(radius)))
    blurred = applied({'type': 'RandomGaussianBlur', 'prob': 1.0, 'sigma': (radius, radius)}, smooth)
    assert np.abs(blurred.astype(int) - expected).max() <= 3


def test_blur_draws_its_deviation_uniformly_for_a_share_of_the_images():
    step = TRANSFORMS.build({'type': 'RandomGaussianBlur', 'prob': 0.25, 'sigma': (0.5, 1.5)})
    drawn = torch.tensor([step.draw() for _ in range(4000)])
    sigmas = drawn[drawn > 0]
    assert len(sigmas) / 4000 == pytest.approx(0.25, abs=0.03)
    assert 0.5 <= sigmas.min() < 0.51
    assert 1.49 < sigmas.max() <= 1.5
    assert sigmas.mean() == pytest.approx(1.0, abs=0.05)
    with cache_random_params(step):
        assert len({step.draw() for _ in range(20)}) == 1


def test_jitter_is_torchvisions_on_rgb(image):
    amounts = {'brightness': 0.5, 'contrast': 0.5, 'saturation': 0.5, 'hue': 0.2}
    step, theirs = TRANSFORMS.build({'type': 'ColorJitter', **amounts}), Torchvisions(**amounts)
    rgb = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    for seed in range(10):
        torch.manual_seed(seed)
        torch.rand(())  # whether to jitter at all
        expected = np.asarray(theirs(rgb))[..., ::-1]
        torch.manual_seed(seed)
        changed = step({'img': image.copy(), 'gt_seg_map': 'kept'})
        assert np.array_equal(changed['img'], expected)
        assert changed['gt_seg_map'] == 'kept'
        assert not np.array_equal(changed['img'], image)


def test_jitter_leaves_a_share_of_the_images_as_they_are(image):
    step = {'type': 'ColorJitter', 'brightness': (1.4, 1.5), 'prob': 0.5}
    same = sum(np.array_equal(applied(step, image), image) for _ in range(400))
    assert same / 400 == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ('step', 'said'),
    [
        ({'type': 'RandomGaussianBlur', 'prob': 1.5}, r'prob is a probability, got 1\.5'),
        ({'type': 'RandomGaussianBlur', 'sigma': (2, 1)}, r'range of deviations, got \(2, 1\)'),
        ({'type': 'ColorJitter', 'prob': -1}, 'prob is a probability, got -1'),
        ({'type': 'ColorJitter', 'hue': 0.7}, 'hue'),
    ],
)
def test_amounts_out_of_range_are_refused(step, said):
    with pytest.raises(ValueError, match=said):
        TRANSFORMS.build(step)


@pytest.mark.parametrize('kind', ['RandomGaussianBlur', 'ColorJitter'])
def test_an_image_that_is_not_one_of_bytes_is_refused(image, kind):
    step = {'type': kind, 'prob': 1.0}
    for wrong in (image.astype(np.float32), image[..., 0]):
        with pytest.raises(TypeError, match=rf'{kind}: expected an image \(H, W, 3\) of uint8, got'):
            applied(step, wrong)


@pytest.mark.parametrize('kind', ['RandomGaussianBlur', 'ColorJitter'])
def test_transforms_say_their_settings(kind):
    assert 'prob=0.25' in repr(TRANSFORMS.build({'type': kind, 'prob': 0.25}))
