"""The one thing of mmseg that style layers need otherwise: activation checkpointing without reentrance."""

import functools
import importlib
import types

from torch.utils.checkpoint import checkpoint


def checkpoint_without_reentry() -> None:
    """Makes `with_cp=True` of mmseg's ResNets use `use_reentrant=False`; idempotent.

    mmseg leaves the choice open, torch then takes the reentrant form: it runs the block without gradients, so a loss
    that a layer inside of it computes would silently train nothing.
    """
    namespace = types.SimpleNamespace(checkpoint=functools.partial(checkpoint, use_reentrant=False))
    for name in ('resnet', 'resnest'):  # ResNetV1c/V1d, ResNeXt inherit from the first
        module = importlib.import_module(f'mmseg.models.backbones.{name}')
        module.cp = namespace  # type: ignore[attr-defined]
