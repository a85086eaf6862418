"""Changes of style for test images: the content of an image stays the same, its look changes.

Every shift maps an image (C, H, W) with values in [0, 1] to another one, which `shift_image` clamps to [0, 1]. It draws
from the generator passed in, so that image i of a test set always gets the same noise or texture. Shifts are for
testing only: a method that is meant to be robust against them must not see them in training.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Shift = Callable[[Tensor, Generator], Tensor]


def blur(image: Tensor, size: int = 5) -> Tensor:
    """Mean over a `size` x `size` window; the border repeats the outermost pixels."""
    padded = F.pad(image[None], [size // 2] * 4, mode='replicate')
    return F.avg_pool2d(padded, size, stride=1)[0]


def gaussian_noise(image: Tensor, generator: Generator, std: float = 0.15) -> Tensor:
    return image + std * torch.randn(image.shape, generator=generator)


def textured_background(image: Tensor, generator: Generator, threshold: float = 0.05) -> Tensor:
    """Pixels darker than `threshold` show a plaid of two waves of random direction, period (3 to 9 px) and phase."""
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    texture = torch.zeros(height, width)
    for angle, period, phase in torch.rand(2, 3, generator=generator).tolist():
        along = x * math.cos(math.pi * angle) + y * math.sin(math.pi * angle)
        texture += torch.sin(2 * math.pi * (along / (3 + 6 * period) + phase)) / 4
    return torch.where(image < threshold, 0.5 + texture, image)


STYLE_SHIFTS: dict[str, Shift] = {
    'contrast': lambda image, _: 0.5 + 0.3 * (image - 0.5),
    'bright': lambda image, _: image + 0.4,
    'dark': lambda image, _: 0.35 * image,
    'gamma': lambda image, _: image**0.4,
    'inverted': lambda image, _: 1 - image,
    'blur': lambda image, _: blur(image),
    'noise': gaussian_noise,
    'texture': textured_background,
}


def shift_image(image: Tensor, name: str, seed: int = 0) -> Tensor:
    """The uint8 image (C, H, W) in another style; the same `seed` gives the same noise or texture."""
    generator = torch.Generator().manual_seed(seed)
    shifted = STYLE_SHIFTS[name](image.float() / 255, generator)
    return shifted.clamp(0, 1).mul(255).round().to(torch.uint8)
