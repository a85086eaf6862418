"""Stylisers: images in the style of other images, without gradient; tools of a recipe, not parts of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..functional import adain
from ..functional.backend import outside_autocast, widen
from . import vgg
from .base import build


class Styliser:
    """`styliser(content, style, alpha)`: the content images in the style of other images, as the styliser defines it.

    A styliser defines a code for images: `encode`, `mix` two codes, `decode`. It makes no random draws.
    """

    @torch.no_grad()
    def __call__(self, content: Tensor, style: Tensor, alpha: float = 1.0) -> Tensor:
        """Restyled images, (N, C, H, W) in [0, 1].

        Args:
            content: (N, C, H, W) in [0, 1].
            style: Image i takes the style of style image i; if this is integers (N,), of content image style[i].
            alpha: 0 keeps the content, 1 takes all of the style.

        Raises:
            ValueError: `alpha` outside [0, 1], images that the styliser cannot take.
        """
        if content.dim() != 4 or not content.is_floating_point():
            raise ValueError(
                f'{type(self).__name__}: expected images (N, C, H, W) of values in [0, 1], got {content.dtype} '
                f'of shape {tuple(content.shape)}'
            )
        if not 0 <= alpha <= 1:
            raise ValueError(f'{type(self).__name__}: expected 0 <= alpha <= 1, got {alpha}')
        code = self.encode(widen(content))
        other = self.encode(widen(style)) if style.is_floating_point() else code[style]
        image = self.decode(self.mix(code, other, alpha), content)
        return image.clamp(0, 1).to(content.dtype)

    def encode(self, images: Tensor) -> Tensor:
        """The code of float32 images."""
        raise NotImplementedError

    def mix(self, content: Tensor, style: Tensor, alpha: float) -> Tensor:
        """The mixture of codes: alpha * adain(content, style) + (1 - alpha) * content, for maps (N, C, *spatial)."""
        return torch.lerp(content, adain(content, style).to(content.dtype), alpha)

    def decode(self, code: Tensor, content: Tensor) -> Tensor:
        """The images of a code, not clamped yet, in the shape of `content`."""
        raise NotImplementedError

    def __deepcopy__(self, memo: object) -> Styliser:
        return self


class AdaINStyliser(Styliser):
    """Adaptive instance normalisation of VGG-19's relu4_1, and a decoder back to images.

        y = decoder(alpha * adain(encoder(content), encoder(style)) + (1 - alpha) * encoder(content))

    Takes RGB images, or grey images as RGB, of at least 9 x 9 pixels. The networks are moved to the images' device.
    Huang & Belongie, ICCV 2017, arXiv:1703.06868.

    Args:
        encoder: File with the weights: `vgg_normalised.pth`, as published or as made by tools/train_styliser.py, or
            weights of timm's or torchvision's `vgg19`.
        decoder: File with the weights of the decoder that was trained with this encoder.

    Raises:
        FileNotFoundError: A file is missing; the message says where to get it.
        ValueError: A file holds something else.
    """

    def __init__(self, encoder: str = 'data/adain/vgg_normalised.pth', decoder: str = 'data/adain/decoder.pth') -> None:
        self.encoder, self.decoder = vgg.load_encoder(encoder), vgg.load_decoder(decoder)

    def encode(self, images: Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        if channels not in (1, 3) or min(height, width) < 9:
            raise ValueError(
                f'AdaINStyliser: expected RGB or grey images of at least 9 x 9 pixels, got {channels} channels and '
                f'{height} x {width}'
            )
        return self.encoder.to(images.device)(images.expand(-1, 3, -1, -1))

    def decode(self, code: Tensor, content: Tensor) -> Tensor:
        image = self.decoder.to(code.device)(code)[..., : content.shape[2], : content.shape[3]].float()
        return image if content.shape[1] == 3 else image.mean(1, keepdim=True)


class FourierStyliser(Styliser):
    """The low frequencies of the content get the amplitudes of the style; the phases stay.

    Content and style have the same size and any number of channels. Yang & Soatto, 'FDA: Fourier Domain Adaptation for
    Semantic Segmentation', CVPR 2020, arXiv:2004.05498; there alpha is 1 and beta 0.01, 0.05 or 0.09.

    Args:
        beta: Frequencies up to floor(beta * min(H, W)) periods per image, in both directions, are low.

    Raises:
        ValueError: `beta` outside [0, 0.5].
    """

    def __init__(self, beta: float = 0.05) -> None:
        if not 0 <= beta <= 0.5:
            raise ValueError(f'FourierStyliser: expected 0 <= beta <= 0.5, got {beta}')
        self.beta = beta

    def encode(self, images: Tensor) -> Tensor:
        return torch.fft.fft2(images)

    def mix(self, content: Tensor, style: Tensor, alpha: float) -> Tensor:
        if content.shape != style.shape:
            raise ValueError(
                f'FourierStyliser: content and style must have one shape, got {tuple(content.shape)} and '
                f'{tuple(style.shape)}'
            )
        height, width = content.shape[2:]
        reach = int(self.beta * min(height, width))
        amplitude = torch.lerp(content.abs(), style.abs(), alpha)
        low = _periods(height, content)[:, None].le(reach) & _periods(width, content).le(reach)
        return torch.where(low, torch.polar(amplitude, content.angle()), content)

    def decode(self, code: Tensor, content: Tensor) -> Tensor:
        return torch.fft.ifft2(code).real


def _periods(size: int, like: Tensor) -> Tensor:
    """The periods per image of each frequency of `fft`: 0, 1, 2, ..., 2, 1."""
    up = torch.arange(size, device=like.device)
    return torch.minimum(up, size - up)


class PixelStyliser(Styliser):
    """The colours of the content get the mean and the deviation of the style's colours, in CIE Lab for RGB images.

    For images with another number of channels, the values themselves are used. Reinhard et al., 'Color Transfer
    between Images', IEEE CG&A 2001; they use a similar colour space, l-alpha-beta.
    """

    def encode(self, images: Tensor) -> Tensor:
        return rgb_to_lab(images) if images.shape[1] == 3 else images

    def decode(self, code: Tensor, content: Tensor) -> Tensor:
        return lab_to_rgb(code) if code.shape[1] == 3 else code


_XYZ = torch.tensor(  # from linear sRGB; each row is divided by the white point D65 below
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_XYZ = _XYZ / _XYZ.sum(1, keepdim=True)
_RGB = torch.linalg.inv(_XYZ)
_LAB = torch.tensor([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_ROOTS = torch.linalg.inv(_LAB)
_DARK = 6 / 29


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    with outside_autocast(x):
        return torch.einsum('ij,njhw->nihw', matrix.to(x), x)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB in [0, 1], (N, 3, H, W), to CIE L*a*b* of the white point D65."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    xyz = _mixed(_XYZ, linear)
    roots = torch.where(xyz <= _DARK**3, xyz / (3 * _DARK**2) + 4 / 29, xyz.clamp(min=_DARK**3) ** (1 / 3))
    lab = _mixed(_LAB, roots)
    return torch.cat([lab[:, :1] - 16, lab[:, 1:]], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours outside sRGB give values outside [0, 1]."""
    roots = _mixed(_ROOTS, torch.cat([lab[:, :1] + 16, lab[:, 1:]], 1))
    xyz = torch.where(roots <= _DARK, 3 * _DARK**2 * (roots - 4 / 29), roots**3)
    linear = _mixed(_RGB, xyz)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


STYLISERS: dict[str, type[Styliser]] = {
    'adain': AdaINStyliser,
    'fourier': FourierStyliser,
    'pixel': PixelStyliser,
}


def build_styliser(styliser: str | Mapping[str, object] | Styliser) -> Styliser:
    """A styliser from its name, or from a dict with its name under `type` and its arguments; or a given styliser.

    Raises:
        ValueError: Unknown styliser, or an argument out of range.
        TypeError: An argument that the styliser does not have.
        FileNotFoundError: A file of weights is missing.
    """
    return styliser if isinstance(styliser, Styliser) else build('styliser', STYLISERS, styliser)
