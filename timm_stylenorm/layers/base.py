"""What all style layers share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class StyleLayer(nn.Module):
    """A module that restyles a feature map (N, C, *spatial) and may leave a loss behind.

    Attributes:
        label: Method and site of an attached layer ('snr.stage1'); None for a layer that stands alone.
        aux: The weighted auxiliary loss of the last training forward, a scalar, until `style_losses` takes it.
        logits: Class logits of that forward for losses that need the labels, (N, K) or (N, K, H, W).
    """

    label: str | None = None
    aux: Tensor | None = None
    logits: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the losses behind: they belong to a graph, which cannot be copied."""
        return {**self.__dict__, 'aux': None, 'logits': None}
