"""Class activation maps: where in an image a network sees a class, by the package pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import unknown
from ..installed import needing
from ..surgery.context import eval_mode, override_attr
from ..surgery.layouts import grid_of
from ..surgery.site import Site
from ..surgery.sites import find_sites
from ..surgery.structure import layout_of, levels_of
from .places import outputs, settled


class Cam(NamedTuple):
    """A row: the class of pytorch-grad-cam, and where it is from."""

    kind: str
    paper: str


CAMS: dict[str, Cam] = {
    'gradcam': Cam('GradCAM', 'Selvaraju et al., ICCV 2017, arXiv:1610.02391'),
    'gradcam++': Cam('GradCAMPlusPlus', 'Chattopadhyay et al., WACV 2018, arXiv:1710.11063'),
    'layercam': Cam('LayerCAM', 'Jiang et al., IEEE TIP 2021, doi:10.1109/TIP.2021.3089943'),
}


def activation_maps(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    layer: str | None = None,
    cam: str = 'gradcam',
    part: nn.Module | None = None,
) -> np.ndarray:
    """Where a network sees a class in each image, in evaluation mode.

    The target is the logit of the class; of logits (N, K, h, w) the mean over the positions where the class is the
    predicted one (Seg-Grad-CAM, Vinogradova et al., AAAI 2020, arXiv:2002.11434), or over all where it is nowhere.
    Gradients of the model's parameters are cleared.

    Args:
        model: Takes images to logits (N, K) or (N, K, h, w).
        images: (N, C, H, W) as the model takes them.
        classes: For each image the output to explain.
        layer: A stage, or a module's name: maps (N, C, h, w), (N, h, w, C) or tokens (N, L, C) arrive after it. By
            default that of `default_layer`.
        cam: A key of `CAMS`.
        part: What the names of layers are of, such as a segmentor's backbone; by default the model.

    Returns:
        (N, H, W), float32 in [0, 1], the largest value of each image 1; all 0 where nothing speaks for the class.

    Raises:
        ValueError: Unknown layer or kind of map, a layer without one map or on which the class does not depend, a class
            that the network has not, logits of another shape.
        ImportError: pytorch-grad-cam is not installed.
    """
    if cam not in CAMS:
        raise ValueError(unknown('kind of class activation map', cam, CAMS))
    with needing('activation_maps'):
        import pytorch_grad_cam
    site = _site(part or model, layer or default_layer(part or model))
    as_map = _reshape(site, images)
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(override_attr(list(model.parameters()), 'requires_grad', False))
        maps = getattr(pytorch_grad_cam, CAMS[cam].kind)(model, [site.module], reshape_transform=as_map)
        stack.callback(maps.activations_and_grads.release)
        found = maps(images.detach().clone().requires_grad_(), [_target(number) for number in classes])
        if not any(gradient.any() for gradient in maps.activations_and_grads.gradients):
            raise ValueError(
                f'layer {site.label!r}: the logits do not depend on the map there, as after the last block of a vision '
                'transformer, of which only the class token goes on; name a layer before it'
            )
    return found


def default_layer(model: nn.Module) -> str:
    """The last stage; where tokens of classes are added to maps, the one before: only they go on after the last.

    Raises:
        ValueError: The model has no stages.
    """
    stages = [name for name in levels_of(model) if name.startswith('stage')]
    _, prefix = layout_of(model)
    if len(stages) <= bool(prefix):
        raise ValueError(f'{type(model).__name__} has no stages that are known: name a module as the layer')
    return stages[-2 if prefix else -1]


def _site(model: nn.Module, layer: str) -> Site:
    """The module after which maps are taken, with their layout."""
    found = find_sites(model, layer, tokens=True)  # the probe tells where the channels are
    sites = outputs(found)
    if len(sites) > 1 or sites[0].where == 'before':
        what = f'means {len(sites)} modules' if len(sites) > 1 else 'is no output of a module'
        raise ValueError(f'layer {layer!r} {what}: name a stage, or one module')
    return settled(model, sites)[0]


def _reshape(site: Site, images: Tensor) -> Callable[[Tensor], Tensor]:
    """To maps (N, C, h, w), copied, since the activation that follows may write into them."""
    ratio = images.shape[3] / images.shape[2]

    def as_map(x: Tensor) -> Tensor:
        if site.channel_dim == 1 and x.dim() == 4:
            return x.clone()
        if site.channel_dim == -1 and x.dim() == 3:
            x = x[:, site.prefix_tokens :]
            grid = grid_of(x.shape[1], ratio)
            if grid is None:
                size = ' x '.join(map(str, images.shape[2:]))
                raise ValueError(f'layer {site.label!r}: {x.shape[1]} tokens are no map of images of {size} pixels')
            x = x.unflatten(1, grid)
        if site.channel_dim == 1 or x.dim() != 4:
            raise ValueError(f'layer {site.label!r}: expected a map there, got shape {tuple(x.shape)}')
        return x.movedim(-1, 1).clone()

    return as_map


def _target(number: int) -> Callable[[Tensor], Tensor]:
    """What is explained of the logits of one image, (K,) or (K, h, w)."""

    def score(logits: Tensor) -> Tensor:
        if not isinstance(logits, Tensor) or logits.dim() not in (1, 3):
            what = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f'activation_maps: expected logits (K,) or (K, h, w) of each image, got {what}')
        if not 0 <= number < len(logits):
            raise ValueError(f'class {number}, and the network has {len(logits)} outputs, 0 to {len(logits) - 1}')
        if logits.dim() == 1:
            return logits[number]
        chosen = logits.argmax(0) == number
        return logits[number][chosen].mean() if chosen.any() else logits[number].mean()

    return score
