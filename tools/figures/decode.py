"""From feature maps back to images: shared code of the picture tools.

A codec converts images to feature maps and back, and runs a classifier on changed maps. `StageCodec` uses the feature
maps of a stage of the classifier and a small decoder that is trained on the given images; `StyliserCodec` uses the
styliser's VGG-19 and its decoder.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch
import torch.nn.functional as F
from figures.pictures import Classifier
from torch import Tensor, nn
from tqdm import tqdm

from timm_stylenorm.errors import unknown
from timm_stylenorm.functional import adain
from timm_stylenorm.layers import AdvBN, StyleLayer
from timm_stylenorm.methods import METHODS, Placement, get_method
from timm_stylenorm.options import key_values
from timm_stylenorm.recipes.advbn import ascend
from timm_stylenorm.recipes.stylisers import AdaINStyliser
from timm_stylenorm.surgery.sites import find_sites


class _Reached(Exception):
    """A forward pass has reached the stage; the rest is not needed."""


class StageCodec:
    """Feature maps (N, C, h, w) after a stage of a classifier, and a decoder that `fit` trains.

    The decoder returns the feature maps of the previous stage, which that stage's decoder decodes further; the decoder
    of the first stage returns images.

    Args:
        classifier: The classifier that has the stage.
        stage: A site, such as 'stage2' or a module's name.
        previous: The codec of the previous stage; None for the first.

    Raises:
        ValueError: The stage is unknown, stands for several places, or passes tokens.
    """

    def __init__(self, classifier: Classifier, stage: str, previous: 'StageCodec | None' = None) -> None:
        self.classifier, self.name, self.previous = classifier, stage, previous
        sites = find_sites(classifier.model, stage)
        if len(sites) > 1:
            raise ValueError(f'maps are taken after one module, and {stage!r} means {len(sites)}')
        self.site = sites[0]
        self.decoder: Decoder

    def encode(self, images: Tensor) -> Tensor:
        taken: list[Tensor] = []

        def take(module: nn.Module, args: Any, output: Tensor) -> None:
            taken.append(output)
            raise _Reached

        with _hooked(self.site.module, take), suppress(_Reached):
            self.classifier(images)
        return self._channels_last(taken[0], back=False)

    def decode(self, features: Tensor, size: Sequence[int]) -> Tensor:
        lower = self.decoder(features)
        if self.previous is not None:
            return self.previous.decode(lower, size)
        return _resized(lower.clamp(0, 1), size)

    def logits(self, features: Tensor, images: Tensor) -> Tensor:
        with self.giving(features):
            return self.classifier(images)

    def giving(self, features: Tensor) -> AbstractContextManager[None]:
        """Context within which the stage returns these feature maps."""
        return _hooked(self.site.module, lambda module, args, output: self._channels_last(features, back=True))

    def _channels_last(self, x: Tensor, back: bool) -> Tensor:
        if self.site.channel_dim == 1:
            return x
        if x.dim() != 4:
            raise ValueError(f'{self.name!r} passes tokens of shape {tuple(x.shape)}; only maps can be decoded')
        return x.movedim(1, -1) if back else x.movedim(-1, 1)

    def fit(self, images: Tensor, steps: int, batch: int = 4, lr: float = 3e-3) -> None:
        """Train the decoder on crops of images in [0, 1] to reconstruct its inputs and to invert restyled maps.

        loss = 4 d(decode(f), in) + d(encode(decode(f)), f) + d(encode(decode(g)), g), with d the squared distance in
        units of each channel's deviation, and g = f in the style of another crop, or with random factors on mean and
        deviation of the batch, as AdvBN has them.
        """
        with torch.no_grad():
            features = torch.cat([self.encode(part) for part in images.split(batch)])
            lower = torch.cat([self._lower(part) for part in images.split(batch)])
        self.decoder = Decoder(features, lower)
        side = max(96, 8 * images.shape[2] // features.shape[2])
        optimizer = torch.optim.Adam(self.decoder.parameters(), lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, max(steps, 2), pct_start=0.1)
        bar = tqdm(range(steps), desc=f'decoder of {self.name}', leave=False, mininterval=2)
        for _ in bar:
            loss = self._loss(_crops(images, batch, side))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f'{loss.item():.3f}', refresh=False)
        self.decoder.requires_grad_(False)

    def _loss(self, crops: Tensor) -> Tensor:
        with torch.no_grad():
            features, wanted = self.encode(crops), self._lower(crops)
            changed = _changed(features)
        lower, decoder = self.decoder(features), self.decoder
        loss = 4 * ((_resized(lower, wanted.shape[2:]) - wanted) / decoder.std_out).square().mean()
        for given, goal in ((lower, features), (decoder(changed), changed)):
            again = self._from(_resized(given, wanted.shape[2:]), crops)
            loss = loss + ((again - goal) / decoder.std).square().mean()
        return loss

    def _lower(self, images: Tensor) -> Tensor:
        return images if self.previous is None else self.previous.encode(images)

    def _from(self, lower: Tensor, images: Tensor) -> Tensor:
        """The feature maps that the network computes from those of the previous stage."""
        if self.previous is None:
            return self.encode(lower)
        with self.previous.giving(lower):
            return self.encode(images)


class StyliserCodec:
    """The relu4_1 maps of the styliser's VGG-19, and its decoder; the classifier sees decoded images.

    Raises:
        FileNotFoundError: A file is missing; the message says where to get it.
        ValueError: A file holds something else.
    """

    name = 'relu4_1'

    def __init__(self, classifier: Classifier, encoder: str, decoder: str) -> None:
        self.classifier, self.styliser = classifier, AdaINStyliser(encoder, decoder)

    def encode(self, images: Tensor) -> Tensor:
        return self.styliser.encode(images)

    def decode(self, features: Tensor, size: Sequence[int]) -> Tensor:
        return self.styliser.decoder(features)[..., : size[0], : size[1]].clamp(0, 1)

    def logits(self, features: Tensor, images: Tensor) -> Tensor:
        return self.classifier(self.decode(features, images.shape[2:]))


Codec = StageCodec | StyliserCodec


def restyled(codec: Codec, method: str, images: Tensor, labels: Tensor) -> Tensor:
    """The feature maps of images in [0, 1] after a style method, as in training, with probability 1 if it has one.

    Args:
        codec: Codec of the feature maps; the noise of AdvBN raises the loss of its classifier.
        method: Name of a method, with arguments of its layer if needed: 'mixstyle:alpha=1'.
        images: (N, 3, H, W), one batch, within which styles are exchanged.
        labels: (N,).

    Raises:
        ValueError: The method is unknown, or it replaces norm layers.
        TypeError: The layer does not have an argument.
    """
    features = codec.encode(images)
    layer = layer_of(method)(features.shape[1]).train()
    if not isinstance(layer, AdvBN):
        return layer(features).detach()
    noise = ascend(layer, features, lambda maps: F.cross_entropy(codec.logits(maps, images), labels))
    return layer.perturb(features, *noise)


def layer_of(method: str) -> Callable[..., StyleLayer]:
    """A function that builds the layer of 'name' or 'name:key=value,...' for a number of channels; see `restyled`."""
    name, _, arguments = method.partition(':')
    row = get_method(name)
    if row.placement is Placement.REPLACE:
        others = [k for k, m in METHODS.items() if m.placement is not Placement.REPLACE]
        raise ValueError(f'{name!r} replaces norm layers, and restyles no map; choose from: {", ".join(others)}')
    options: dict[str, Any] = {'p': 1.0} if 'p' in row.defaults else {}
    options |= key_values(filter(None, arguments.split(',')))
    for key in options:
        if key not in row.defaults:
            raise TypeError(unknown(f'argument of {name!r}:', key, row.defaults))
    return lambda channels: row.layer(channels, **options)


class Decoder(nn.Module):
    """Decodes feature maps to those of the previous stage by convolutions and doublings of the resolution."""

    def __init__(self, features: Tensor, lower: Tensor) -> None:
        super().__init__()
        for name, maps in (('', features), ('_out', lower)):
            std, mean = torch.std_mean(maps, (0, 2, 3), keepdim=True)
            self.register_buffer(f'mean{name}', mean)
            self.register_buffer(f'std{name}', std.clamp(min=1e-2 * float(std.max())))
        channels, out = features.shape[1], lower.shape[1]
        doublings = max(round(math.log2(lower.shape[2] / features.shape[2])), 0)
        shuffled = out == 3 and doublings > 0  # convolutions at the image's full size would take most of the time
        layers: list[nn.Module] = []
        for left in reversed(range(doublings + (not shuffled))):
            wide = max(32 * 2**left, min(out, 128))
            layers += [_conv(channels, wide), nn.LeakyReLU(0.1), _conv(wide, wide), nn.LeakyReLU(0.1)]
            layers += [nn.Upsample(scale_factor=2, mode='bilinear')] if left else []
            channels = wide
        layers += [_conv(channels, 4 * out), nn.PixelShuffle(2)] if shuffled else [_conv(channels, out)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers((features - self.mean) / self.std) * self.std_out + self.mean_out


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return maps if maps.shape[2:] == tuple(size) else F.interpolate(maps, tuple(size), mode='bilinear')


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, padding_mode='replicate')


def _crops(images: Tensor, count: int, side: int) -> Tensor:
    sides = [min(side, s) for s in images.shape[2:]]
    found = []
    for i in torch.randint(len(images), (count,)):
        top, left = (int(torch.randint(s - c + 1, ())) for s, c in zip(images.shape[2:], sides, strict=True))
        crop = images[i, :, top : top + sides[0], left : left + sides[1]]
        found.append(crop.flip(-1) if torch.rand(()) < 0.5 else crop)
    return torch.stack(found)


def _changed(features: Tensor) -> Tensor:
    n, c = features.shape[:2]
    if torch.rand(()) < 0.5:
        return torch.lerp(features, adain(features, features.roll(1, 0)), torch.rand(n, 1, 1, 1))
    noise = 1 + torch.randn(2, c) * 0.5 * torch.rand(())
    return AdvBN().perturb(features, *noise)


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
