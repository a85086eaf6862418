"""ImageCorruption: the same pixels in every run and worker, and nothing else disturbed."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import TRANSFORMS
from torch.utils.data import DataLoader, Dataset

from mmseg_stylenorm.datasets import ImageCorruption
from timm_stylenorm.runner.configs import config_root

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
SEEDED = 'impulse_noise', pytest.param('glass_blur', marks=pytest.mark.slow)  # draw from generators of their own
GLOBAL = 'gaussian_noise', 'frost'  # draw from numpy's


def corrupt(transform: ImageCorruption, index: int) -> np.ndarray:
    return transform({'img': IMAGE.copy(), 'sample_idx': index})['img']


class Corrupted(Dataset):
    """Eight times the same image, each corrupted by its index."""

    def __init__(self, name: str) -> None:
        self.transform = ImageCorruption(name, 3)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(corrupt(self.transform, index))


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _package(self):
        pytest.importorskip('imagecorruptions')

    @pytest.mark.parametrize('name', [*GLOBAL, *SEEDED])
    def test_pixels_depend_on_the_index_and_on_nothing_else(self, name):
        first = corrupt(ImageCorruption(name, 3), 5)
        np.random.rand(3)  # noqa: NPY002 (numpy's global generator has gone on)
        transform = ImageCorruption(name, 3)
        assert (corrupt(transform, 4) != first).any()
        np.testing.assert_array_equal(corrupt(transform, 5), first)
        assert first.dtype == np.uint8
        assert (first != IMAGE).any()

    @pytest.mark.parametrize('name', ['gaussian_noise', 'impulse_noise'])
    def test_pixels_do_not_depend_on_the_number_of_workers(self, name):
        alone = torch.stack([Corrupted(name)[index] for index in range(8)])
        assert len(alone.flatten(1).unique(dim=0)) == 8
        workers = torch.cat(list(DataLoader(Corrupted(name), batch_size=2, num_workers=2)))
        torch.testing.assert_close(workers, alone, rtol=0, atol=0)

    def test_numpys_generator_goes_on_as_without(self):
        np.random.seed(1)  # noqa: NPY002
        expected = np.random.rand(4)  # noqa: NPY002
        np.random.seed(1)  # noqa: NPY002
        corrupt(ImageCorruption('gaussian_noise', 5), 0)
        np.testing.assert_array_equal(np.random.rand(4), expected)  # noqa: NPY002

    def test_name_severity_and_seed_count(self):
        options = [('gaussian_noise', 1, 0), ('gaussian_noise', 2, 0), ('gaussian_noise', 1, 1), ('shot_noise', 1, 0)]
        noises = {corrupt(ImageCorruption(*option), 0).tobytes() for option in options}
        assert len(noises) == 4

    def test_the_image_is_taken_as_bgr(self):
        image = np.zeros((32, 32, 3), np.uint8)
        image[..., 2] = 255  # red; snow and spatter treat it otherwise than blue
        bgr = ImageCorruption('spatter', 5)({'img': image.copy(), 'sample_idx': 0})['img']
        import imagecorruptions

        seed = np.random.SeedSequence((0, 0, 5, 4273487425)).generate_state(1)[0]
        np.random.seed(int(seed))  # noqa: NPY002
        rgb = imagecorruptions.corrupt(np.ascontiguousarray(image[..., ::-1]), 5, 'spatter')
        np.testing.assert_array_equal(bgr[..., ::-1], rgb)

    def test_unknown_names_and_severities_are_refused(self):
        with pytest.raises(ValueError, match=r"unknown corruption 'foq'; did you mean 'fog'"):
            ImageCorruption('foq', 1)
        with pytest.raises(ValueError, match='severity is 1, 2, 3, 4 or 5, got 6'):
            ImageCorruption('fog', 6)

    def test_the_shipped_cityscapes_c_names_what_exists(self):
        init_default_scope('mmseg')
        cfg = Config.fromfile(config_root() / '_base_/datasets/cityscapes_c.py')
        parts = cfg.test_dataloader.dataset.domains
        transforms = {name: TRANSFORMS.build(part.pipeline[1]) for name, part in parts.items() if name != 'clean'}
        assert {name: f'{t.name}-{t.severity}' for name, t in transforms.items()} == {name: name for name in transforms}
        assert len(transforms) == 75
        assert sorted(cfg.test_evaluator.means.pop('mean_corrupted')) == sorted(transforms)
        assert sorted(sum(cfg.test_evaluator.means.values(), [])) == sorted(transforms)  # noqa: RUF017


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'imagecorruptions', None)
    with pytest.raises(ImportError, match='pip install imagecorruptions-imaug'):
        ImageCorruption('fog', 1)
