"""The patches of mmseg."""

import functools
import sys

import mmseg.models  # noqa: F401 (this imports its backbones, necks and heads)
import torch.utils.checkpoint

from timm_stylenorm.patches import Patch, StandIn

# The module `torch.utils.checkpoint` with a `checkpoint` function whose default is `use_reentrant=False`
without_reentry = StandIn(
    torch.utils.checkpoint, checkpoint=functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
)

PATCHES = (
    Patch(
        what=tuple(
            f'{name}.cp'
            for name, module in list(sys.modules.items())
            if name.startswith('mmseg.models.') and getattr(module, 'cp', None) is torch.utils.checkpoint
        ),
        why='`with_cp=True` leaves the choice to torch, which takes the reentrant form: it runs the block without '
        'gradients, so that a loss of a layer inside of it would silently train nothing',
        since='mmseg 1.2.2',
        until='mmseg 1.4.2',
        by='mmseg_stylenorm.host.without_reentry',
    ),
)
