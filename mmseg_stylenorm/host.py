"""What is mended in mmseg: activation checkpointing."""

import functools
import sys
import types

import mmseg.models  # noqa: F401 (its backbones, necks and heads are imported with it)
import torch.utils.checkpoint


def checkpoint_without_reentry() -> None:
    """Makes `with_cp=True` use `use_reentrant=False` in all modules of mmseg.models that are imported; idempotent.

    mmseg leaves the choice open, torch then takes the reentrant form: it runs the block without gradients, so a loss
    that a layer inside of it computes would silently train nothing.
    """
    without = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
    namespace = types.SimpleNamespace(checkpoint=without)
    for name, module in list(sys.modules.items()):
        if name.startswith('mmseg.models.') and getattr(module, 'cp', None) is torch.utils.checkpoint:
            module.cp = namespace  # type: ignore[attr-defined]
