"""Images corrupted while loading, as in Cityscapes-C."""

import inspect
import zlib

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from timm_stylenorm.errors import unknown


@TRANSFORMS.register_module()
class ImageCorruption(BaseTransform):
    """Applies a corruption of ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261).

    Cityscapes-C consists of the images of Cityscapes val after these functions (Michaelis et al., arXiv:1907.07484;
    Kamann and Rother, CVPR 2020, arXiv:1908.05005, whose noise severities end at 3). An image's noise depends only on
    its index in the data set, the name, the severity and the seed, not on the run or the number of workers.

    Args:
        name: 'gaussian_noise', 'fog', ...: a name that `imagecorruptions.get_corruption_names('all')` lists.
        severity: 1 to 5.
        seed: Seed of the noise.

    Raises:
        ImportError: The package imagecorruptions is missing.
        ValueError: The name is unknown, or the severity is out of range.
    """

    of_the_domain = True  # MultiDomainDataset keeps it when it replaces the other transforms

    def __init__(self, name: str, severity: int = 1, seed: int = 0) -> None:
        try:
            import imagecorruptions
        except ImportError as error:
            raise ImportError(
                'ImageCorruption needs the package imagecorruptions: pip install imagecorruptions-imaug '
                f'(the older imagecorruptions fails with current numpy); {error}'
            ) from error
        known = imagecorruptions.get_corruption_names('all')
        if name not in known:
            raise ValueError(unknown('corruption', name, known))
        if severity not in range(1, 6):
            raise ValueError(f'ImageCorruption: severity is 1, 2, 3, 4 or 5, got {severity}')
        self.name, self.severity, self.seed = name, severity, seed
        self._corrupt = imagecorruptions.corrupt
        self._takes_seed = 'seed' in inspect.signature(imagecorruptions.corruption_dict[name]).parameters

    def transform(self, results: dict) -> dict:
        """Corrupts `img`, BGR (H, W, 3) of uint8 as mmcv loads it; without `sample_idx` the index is 0."""
        key = (self.seed, results.get('sample_idx', 0), self.severity, zlib.crc32(self.name.encode()))
        drawn = int(np.random.SeedSequence(key).generate_state(1)[0])
        extra = {'seed': drawn} if self._takes_seed else {}  # these draw from generators of their own
        before = np.random.get_state()  # noqa: NPY002 (the others draw from numpy's global generator)
        np.random.seed(drawn)  # noqa: NPY002
        try:
            rgb = np.ascontiguousarray(results['img'][..., ::-1])
            corrupted = self._corrupt(rgb, self.severity, self.name, **extra)
        finally:
            np.random.set_state(before)  # noqa: NPY002
        results['img'] = np.ascontiguousarray(corrupted[..., ::-1])
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(name={self.name!r}, severity={self.severity}, seed={self.seed})'
