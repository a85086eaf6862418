"""Transforms of images by their names: timm's, torchvision's, and several views of each image."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision import transforms as tv

from ..errors import unknown


def build_transform(transform: dict | Sequence[dict] | None) -> Callable[[Image.Image], Tensor]:
    """PIL image -> uint8 tensor (3, H, W), by a recipe as in `data`'s docstring; None only converts.

    Raises:
        ValueError: the recipe normalises or erases, which `ClsPreprocessor` does; or torchvision lacks a name in it.
    """
    if isinstance(transform, dict):
        for key, instead in (('normalize', 'mean and std'), ('re_prob', 'erasing')):
            if transform.get(key):
                raise ValueError(f'transform: {key} is the task of model.data_preprocessor; set {instead} there')
        return create_transform(**{**transform, 'normalize': False})
    return tv.Compose([*_build_steps(transform or ()), _to_tensor])


def geometry(transform: dict | Sequence[dict] | None) -> dict[str, object] | None:
    """How images of a test are scaled and cropped, in the keys of timm's model configurations.

    Args:
        transform: As `build_transform` takes it.

    Returns:
        Some of `input_size`, `crop_pct`, `crop_mode` and `interpolation`; an empty dict if images stay as they are;
        None if the steps do more than these keys can express.
    """
    if isinstance(transform, dict):
        found = {k: transform[k] for k in ('input_size', 'crop_pct', 'crop_mode', 'interpolation') if k in transform}
        size = found.get('input_size')
        return {**found, 'input_size': (3, size, size)} if isinstance(size, int) else found
    steps = [dict(step) for step in transform or ()]
    kinds = [step['type'] for step in steps]
    if not steps:
        return {}
    scaled = {'interpolation': steps[0].get('interpolation', 'bilinear')}
    if kinds == ['Resize'] and not isinstance(steps[0]['size'], int):
        return {**scaled, 'input_size': (3, *steps[0]['size']), 'crop_pct': 1.0, 'crop_mode': 'squash'}
    if kinds == ['Resize', 'CenterCrop'] and all(isinstance(step['size'], int) for step in steps):
        side = steps[1]['size']
        return {**scaled, 'input_size': (3, side, side), 'crop_pct': side / steps[0]['size'], 'crop_mode': 'center'}
    return None


class AugSplits:
    """An image and further views of it, changed by transforms: timm's `--aug-splits`, for AugMix with the JSD loss.

        dict(type='AugSplits', splits=3, transforms=[dict(type='AugMix', all_ops=False)])

    Hendrycks et al., 'AugMix', ICLR 2020, arXiv:1912.02781.

    Args:
        transforms: Callables on images, applied one after the other to all views but the first.
        splits: Views of each image, the unchanged one among them.

    Raises:
        ValueError: Fewer than two splits.
    """

    def __init__(self, transforms: Sequence[Callable[[Image.Image], Image.Image]], splits: int = 3) -> None:
        if splits < 2:
            raise ValueError(f'AugSplits: expected splits >= 2, got {splits}')
        self.transform, self.splits = tv.Compose(list(transforms)), splits

    def __call__(self, image: Image.Image) -> list[Image.Image]:
        return [image, *(self.transform(image) for _ in range(self.splits - 1))]


def _to_tensor(image: Image.Image | Sequence[Image.Image]) -> Tensor:
    """uint8, (3, H, W), or (splits, 3, H, W) for several views."""
    if isinstance(image, Image.Image):
        return tv.functional.pil_to_tensor(image)
    return torch.stack([tv.functional.pil_to_tensor(view) for view in image])


def _build_steps(transform: Sequence[dict]) -> list[Callable[[Image.Image], object]]:
    steps: list[Callable[[Image.Image], object]] = []
    for step in transform:
        arguments = dict(step)
        name = arguments.pop('type')
        kind = AugSplits if name == 'AugSplits' else getattr(tv, name, None)
        if kind is None:
            raise ValueError(unknown('torchvision transform', name, [*_transform_names(), 'AugSplits']))
        if 'transforms' in arguments:  # of RandomApply and similar transforms
            arguments['transforms'] = _build_steps(arguments['transforms'])
        steps.append(kind(**arguments))
    return steps


def _transform_names() -> list[str]:
    return [name for name in dir(tv) if name[0].isupper()]
