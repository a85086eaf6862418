"""A place for a style layer."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import StyleNormWarning
from ..torch_host import BEFORE_2_6


@dataclass(frozen=True)
class Site:
    """A place for a style layer.

    Attributes:
        label: 'stage1', or the module's name for sites that name many modules.
        name: Name of `module` in the model.
        module: The module whose output is restyled; its input with `where='before'`; a norm layer with `'replace'`.
        channels: Channels there; None if unknown.
        where: 'after', 'before' or 'replace'.
        block: With `where='before'`, the block of a module that is called several times in it.
        calls: How often this block calls the module; the last call counts.
        asked: The requested site name, 'stage1.norm1'.
        slot_of: A block that has an empty place of this name, which the module is to fill.
        channel_dim: Where the channels are, 1 or -1.
        prefix_tokens: Number of class and register tokens at the front, which are not part of a map.
        promised: Channels of the stage in `feature_info`; another number is an error.
    """

    label: str
    name: str
    module: nn.Module
    channels: int | None
    where: str = 'after'
    block: nn.Module | None = None
    calls: int = 1
    channel_dim: int = 1
    prefix_tokens: int = 0
    promised: int | None = None
    slot_of: nn.Module | None = None
    asked: str = ''

    @property
    def of_stage(self) -> bool:
        """Whether it was requested as a stage, as the blocks of all stages, or as parts of these."""
        return re.match(r'stage\d|blocks(\.[a-z]+)?$', self.asked) is not None


def warn_of_containers(sites: Sequence[Site]) -> None:
    """Before torch 2.6, warn once of layers that the compiler would skip, since none of our code could raise there."""
    held = [site.name for site in sites if site.where != 'replace' and isinstance(site.module, nn.Sequential)]
    if BEFORE_2_6 and held:
        text = f'torch before 2.6: torch.compile leaves out {len(held)} style layers without an error, as that at '
        text += f'{held[0]!r}, an nn.Sequential, whose hooks it does not run; do not compile this model'
        warnings.warn(text, StyleNormWarning, stacklevel=4)
