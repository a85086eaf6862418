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
    """A row of the table: the class of pytorch-grad-cam, and its paper."""

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

    The target is the logit of the class; for logits (N, K, h, w), its mean over the positions where the class is
    predicted (Seg-Grad-CAM, Vinogradova et al., AAAI 2020, arXiv:2002.11434), or over all if it is predicted nowhere.
    Gradients of the model's parameters are cleared.

    Args:
        model: Maps images to logits (N, K) or (N, K, h, w).
        images: (N, C, H, W) as the model takes them.
        classes: The output to explain for each image.
        layer: A stage, or a module's name, whose output is a map (N, C, h, w) or (N, h, w, C), or tokens (N, L, C). By
            default the result of `default_layer`.
        cam: A key of `CAMS`.
        part: The sub-module in which layers are looked up, such as a segmentor's backbone; by default the model.

    Returns:
        (N, H, W), float32 in [0, 1], the largest value of each image is 1; all 0 if nothing speaks for the class.

    Raises:
        ValueError: An unknown layer or kind of map, a layer that has no single map or does not affect the class, a
            class that the network does not have, or logits of another shape.
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
    """The last stage, or the one before it if the model adds class tokens: after the last, only these are used.

    Raises:
        ValueError: The model has no such stage.
    """
    stages = [name for name in levels_of(model) if name.startswith('stage')]
    _, prefix = layout_of(model)
    if len(stages) <= bool(prefix):
        raise ValueError(f'{type(model).__name__} has no stages that are known: name a module as the layer')
    return stages[-2 if prefix else -1]


def _site(model: nn.Module, layer: str) -> Site:
    """The module whose output is the map, with the layout of the map."""
    found = find_sites(model, layer, tokens=True)  # the probe tells where the channels are
    sites = outputs(found)
    if len(sites) > 1 or sites[0].where == 'before':
        what = f'means {len(sites)} modules' if len(sites) > 1 else 'is no output of a module'
        raise ValueError(f'layer {layer!r} {what}: name a stage, or one module')
    return settled(model, sites)[0]


def _reshape(site: Site, images: Tensor) -> Callable[[Tensor], Tensor]:
    """The function that turns an output into a new map (N, C, h, w): the next activation may work in place."""
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
    """The function from the logits of one image, (K,) or (K, h, w), to the value that is explained."""

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
