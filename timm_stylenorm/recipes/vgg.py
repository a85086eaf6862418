"""VGG-19 up to relu4_1 and its mirror image, in the layout of the weights that were published for AdaIN.

Huang & Belongie, ICCV 2017, arXiv:1703.06868; the layout follows the PyTorch port (naoto0804/pytorch-AdaIN): numbers as
keys, reflection padding, and a 1x1 convolution in front of the encoder that normalises images in [0, 1].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..checkpoints import read_state_dict

TAPS = (3, 10, 17, 30)  # relu1_1, relu2_1, relu3_1, relu4_1 of the encoder
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in RGB
_DOWN = (64, 64, 'pool', 128, 128, 'pool', 256, 256, 256, 256, 'pool', 512)
_UP = (256, 'up', 256, 256, 256, 128, 'up', 128, 64, 'up', 64, 3)
_HINT = (
    "The AdaIN repository's release (naoto0804/pytorch-AdaIN) has `vgg_normalised.pth` and `decoder.pth`; "
    '`python tools/train_styliser.py IMAGES --out FOLDER` makes both from any image folder'
)


def _layers(channels: int, plan: tuple[int | str, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, int):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, step, 3), nn.ReLU()]
            channels = step
        else:
            layers.append(nn.MaxPool2d(2, ceil_mode=True) if step == 'pool' else nn.Upsample(scale_factor=2))
    return layers


def encoder() -> nn.Sequential:
    """A network from images in [0, 1], (N, 3, H, W), at least 9 x 9, to relu4_1, (N, 512, H/8, W/8), rounded up."""
    return nn.Sequential(nn.Conv2d(3, 3, 1), *_layers(3, _DOWN))


def decoder() -> nn.Sequential:
    """A network from relu4_1, (N, 512, h, w), to images, (N, 3, 8h, 8w), with values in about [0, 1]."""
    return nn.Sequential(*_layers(512, _UP)[:-1])


def features(network: nn.Sequential, images: Tensor) -> list[Tensor]:
    """relu1_1, relu2_1, relu3_1 and relu4_1 of an encoder."""
    taps = []
    for i, layer in enumerate(network):
        images = layer(images)
        if i in TAPS:
            taps.append(images)
    return taps


def from_vgg19(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of an encoder from the weights of timm's or torchvision's `vgg19`, with ImageNet's normalisation.

    The convolutions of `vgg19` were trained with zero padding; AdaIN pads by reflection, as the published encoder does.

    Raises:
        ValueError: Weights of a VGG with batch norm.
    """
    if any('running_mean' in key for key in state):
        raise ValueError('an encoder is made from the plain vgg19, and these weights have batch norms (vgg19_bn?)')
    std = torch.tensor(_STD)
    made = {'0.weight': torch.diag(1 / std)[:, :, None, None], '0.bias': -torch.tensor(_MEAN) / std}
    theirs = sorted({int(k.split('.')[1]) for k in state if re.fullmatch(r'features\.\d+\.weight', k)})
    ours = [i for i, layer in enumerate(encoder()) if isinstance(layer, nn.Conv2d)][1:]
    for i, j in zip(ours, theirs, strict=False):
        made |= {f'{i}.{kind}': state[f'features.{j}.{kind}'] for kind in ('weight', 'bias')}
    return made


def load_encoder(path: str | Path) -> nn.Sequential:
    """A frozen encoder from `vgg_normalised.pth`, or from weights of timm's or torchvision's `vgg19`.

    Raises:
        FileNotFoundError: The file is missing; the message says where to get it.
        ValueError: The file holds something else.
    """
    state = _read(path, 'encoder')
    if any(key.startswith('features.') for key in state):
        state = from_vgg19(state)
    return _fill(encoder(), state, path, 'encoder')


def load_decoder(path: str | Path) -> nn.Sequential:
    """A frozen decoder from `decoder.pth`.

    Raises:
        FileNotFoundError: The file is missing; the message says where to get it.
        ValueError: The file holds something else.
    """
    return _fill(decoder(), _read(path, 'decoder'), path, 'decoder')


def _read(path: str | Path, what: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f'no {what} of the AdaIN styliser at {str(path)!r}. {_HINT}')
    return read_state_dict(path)


def _fill(network: nn.Sequential, state: Mapping[str, Tensor], path: str | Path, what: str) -> nn.Sequential:
    wanted = network.state_dict()
    for key, value in wanted.items():
        if key not in state or state[key].shape != value.shape:
            got = tuple(state[key].shape) if key in state else 'nothing'
            raise ValueError(
                f'{str(path)!r} is no {what} of the AdaIN styliser: expected {key!r} of shape {tuple(value.shape)}, '
                f'got {got}. {_HINT}'
            )
    network.load_state_dict({key: state[key] for key in wanted})
    return network.eval().requires_grad_(False)


@torch.no_grad()
def normalise(network: nn.Sequential, batches: Iterable[Tensor]) -> nn.Sequential:
    """Scale the filters of an encoder so that each has mean activation 1 over some images, in place.

    Each layer undoes the factors of the layer before, so that each channel of a tap changes by one factor only. The
    weights of AdaIN's losses are meant for features of this size. Filters whose mean activation is below a hundredth of
    the average of their layer are scaled as if it were this hundredth. Gatys et al., CVPR 2016, Sec. 2.

    Args:
        network: An encoder.
        batches: Images in [0, 1], each (N, 3, H, W).
    """
    means: dict[int, list[Tensor]] = {i: [] for i, layer in enumerate(network) if isinstance(layer, nn.ReLU)}
    for images in batches:
        for i, layer in enumerate(network):
            images = layer(images)
            if i in means:
                means[i].append(images.mean((0, 2, 3)))
    before = torch.ones(())
    for i, found in means.items():
        conv = cast('nn.Conv2d', network[i - 1])
        mean = torch.stack(found).mean(0)
        factor = mean.clamp(min=float(mean.mean()) / 100 or 1.0)
        conv.weight.mul_(before / factor[:, None, None, None])
        conv.get_parameter('bias').div_(factor)
        before = factor[:, None, None]
    return network
