"""MODEL on a command line as a network that loads its own images: a classifier, or a segmentor of a config."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from classifiers import build, built, classifier_of, load
from cli import kind_of, tested_parts
from torch import Tensor, nn
from torchvision.transforms.functional import resize

from timm_stylenorm.datafiles import UNREADABLE
from timm_stylenorm.evaluation.engine import shown_by
from timm_stylenorm.evaluation.images import Shown, read_rgb

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclass
class Network:
    """A network in evaluation mode.

    Attributes:
        name, weights: Names of the model and its weights in tables, see `classifiers.build`.
        model: Maps normalised images (N, 3, H, W) to logits (N, K) or (N, K, h, w).
        part: The part that has sites: the whole model, or the backbone of a segmentor.
        show: How images are loaded and prepared for it.
        classes: Names of its outputs; empty if they are not known.
    """

    name: str
    weights: str
    model: nn.Module
    part: nn.Module
    show: Shown
    classes: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def class_name(self, output: int) -> str:
        """The class name of an output, or its number if names are not known."""
        return self.classes[output] if output < len(self.classes) else f'class {output}'

    def read(self, file: Path) -> Tensor:
        """The image as the network sees it, uint8, (3, H, W).

        Raises:
            ValueError: The file cannot be read; the message names it.
        """
        try:
            image = read_rgb(file)
        except UNREADABLE as error:
            raise ValueError(f'cannot read the image {file}: {error}') from error
        return self.show(image, str(file))

    def inputs(self, images: Tensor) -> Tensor:
        """Moves images (N, 3, H, W), uint8, to the device and normalises them."""
        return self.show.inputs(images, self.device)


def networks(args: argparse.Namespace) -> list[Network]:
    """The networks of a command line, on their device.

    Raises:
        ValueError: There is no such model, weights do not fit, or the number of names differs.
        FileNotFoundError: A file does not exist.
    """
    if args.names is not None and len(args.names) != len(args.models):
        raise ValueError(f'--names: {len(args.names)} names for {len(args.models)} models')
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    found = [network(word, args) for word in args.models]
    names = [one.name for one in found]
    for word, one in zip(args.models, found, strict=True):
        one.model.to(device).eval()
        if names.count(one.name) > 1:  # files in several folders have the same name
            one.name = f'{one.name.partition(" (")[0]} ({"/".join(Path(word.partition("=")[2]).parts[-2:])})'
    for name, one in zip(args.names or (), found, strict=False):
        one.name = name
    return found


def network(word: str, args: argparse.Namespace) -> Network:
    """The network of one MODEL."""
    base, _, file = word.partition('=')
    names: tuple[str, ...] = ()
    if Path(base).suffix == '.py':
        model, cfg = built(base, file)
        names = classes_of(cfg)
        if not hasattr(model, 'net'):
            return segmentor(model, cfg, base, file, args)
        net, name, weights = classifier_of(model, cfg, base, file)
    else:
        net, name, weights = build(word, args.num_classes)
    if not names and net.num_classes == 1000:
        from timm.data import ImageNetInfo

        imagenet = ImageNetInfo('imagenet-1k')
        names = tuple(imagenet.index_to_description(i).partition(',')[0] for i in range(1000))
    return Network(name, weights, net, net, shown_by(net, args.mean, args.std), names)


def segmentor(model: nn.Module, cfg: Config, config: str, file: str, args: argparse.Namespace) -> Network:
    """A segmentor with its checkpoint; images keep their size, or are scaled to the shorter side `--image-size`."""
    load(model, file)
    given = cfg.model.get('data_preprocessor') or {}
    mean = args.mean or [v / 255 for v in given.get('mean') or (0, 0, 0)]
    std = args.std or [v / 255 for v in given.get('std') or (1, 1, 1)]
    scaled = (lambda image: resize(image, args.image_size)) if args.image_size else (lambda image: image)
    name = f'{Path(config).stem} ({Path(file).name})'
    logits = Logits(model, given.get('bgr_to_rgb', False))
    part = model.get_submodule(cfg.model.get('where', 'backbone'))
    return Network(name, f'checkpoint {file}', logits, part, Shown(mean, std, resize=scaled), classes_of(cfg))


def classes_of(cfg: Config) -> tuple[str, ...]:
    """Class names of the data set on which a config tests, if the data set's type defines them."""
    from mmengine.registry import DATASETS

    for part in tested_parts(cfg):
        names = (part.get('metainfo') or {}).get('classes')
        with DATASETS.switch_scope_and_registry(None) as registry:  # the registry of the config's default scope
            kind = registry.get(kind_of(part))
        return tuple(names or getattr(kind, 'METAINFO', {}).get('classes') or ())
    return ()


class Logits(nn.Module):
    """Wraps a segmentor: maps RGB images (N, 3, H, W) to logits (N, K, h, w)."""

    def __init__(self, model: nn.Module, rgb: bool) -> None:
        super().__init__()
        self.segmentor, self.rgb = model, rgb

    def forward(self, images: Tensor) -> Tensor:
        logits = self.segmentor(images if self.rgb else images.flip(1), mode='tensor')
        if not isinstance(logits, Tensor) or logits.dim() != 4:
            kind = f'shape {tuple(logits.shape)}' if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f'{type(self.segmentor).__name__} gives {kind}, expected logits (N, K, h, w)')
        return logits


def class_number(word: str, names: Sequence[str], outputs: int) -> int:
    """The output to which a number or a name refers.

    Raises:
        ValueError: It refers to no output.
    """
    from timm_stylenorm.errors import unknown

    if word.isdigit():
        if int(word) >= outputs:
            raise ValueError(f'class {word}: the network has {outputs} outputs, 0 to {outputs - 1}')
        return int(word)
    if word not in names:
        raise ValueError(unknown('class', word, names) if names else f'class {word!r}: give the number of its output')
    return list(names).index(word)
