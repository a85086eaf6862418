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
        module: The module whose output is restyled; of `where='before'` its input; of `where='replace'` a norm layer.
        channels: Channels there; None where they cannot be told.
        where: 'after', 'before' or 'replace'.
        block: Of a module that its block calls several times, for `where='before'`: that block, ...
        calls: ... and how often; the last call is meant.
        asked: The name by which it was asked for, 'stage1.norm1'.
        slot_of: A block that has an empty place of this name, for which the module is meant.
        channel_dim: Where the channels are, 1 or -1.
        prefix_tokens: Class and register tokens at the front, which belong to no map.
        promised: Channels of the stage in `feature_info`; no others may arrive.
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
        """Whether it was asked for as a stage, as the blocks of all stages, or as parts of these."""
        return re.match(r'stage\d|blocks(\.[a-z]+)?$', self.asked) is not None


def warn_of_containers(sites: Sequence[Site]) -> None:
    """Below torch 2.6, one warning for layers that the compiler would pass over, where nothing of ours could raise."""
    held = [site.name for site in sites if site.where != 'replace' and isinstance(site.module, nn.Sequential)]
    if BEFORE_2_6 and held:
        text = f'torch before 2.6: torch.compile leaves out {len(held)} style layers without an error, as that at '
        text += f'{held[0]!r}, an nn.Sequential, whose hooks it does not run; do not compile this model'
        warnings.warn(text, StyleNormWarning, stacklevel=4)
