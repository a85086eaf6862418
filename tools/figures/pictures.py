"""Inputs of the picture tools: images and a classifier."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from classifiers import build
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that a source tree works without being installed

from timm_stylenorm.datafiles import IMAGE_SUFFIXES, UNREADABLE, as_rgb, visible_files
from timm_stylenorm.errors import unknown


def evenly(count: int, of: int) -> list[int]:
    """At most `count` indices below `of`, evenly spread."""
    count = min(count, of)
    return [i * of // count for i in range(count)]


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted.

    Raises:
        FileNotFoundError: The folder does not exist, or holds no image.
    """
    if not folder.is_dir():
        near = sorted(str(p) for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        raise FileNotFoundError(unknown('folder', str(folder), near))
    files = [file for file in visible_files(folder) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise FileNotFoundError(f'no image below {folder}; their names end in {", ".join(IMAGE_SUFFIXES)}')
    return files


def load_images(files: Sequence[Path], size: int) -> Tensor:
    """Images scaled to cover a square of `size` pixels and cropped to it, (N, 3, size, size) in [0, 1].

    Raises:
        ValueError: A file cannot be read; the message names it.
    """
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                fitted = ImageOps.fit(as_rgb(image), (size, size), Image.Resampling.BICUBIC)
        except UNREADABLE as error:
            raise ValueError(f'cannot read the image {file}: {error}') from error
        images.append(pil_to_tensor(fitted) / 255)
    return torch.stack(images)


class Classifier:
    """A classifier with its normalisation, frozen and in evaluation mode.

    Args:
        model: Maps normalised images (N, 3, H, W) to logits (N, K).
        mean, std: Statistics of its training images, with values in [0, 1].
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))

    @classmethod
    def of(cls, args: Any) -> 'Classifier':
        """Build one from a command line's `model`, `checkpoint`, `mean` and `std`.

        Raises:
            ValueError: timm has no such model, or the weights do not fit it.
        """
        model, _, _ = build(args.model if args.checkpoint is None else f'{args.model}={args.checkpoint}', None)
        data = timm.data.resolve_model_data_config(model)
        return cls(model, args.mean or data['mean'], args.std or data['std'])

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images in [0, 1]."""
        return self.model((images - self.mean) / self.std)
