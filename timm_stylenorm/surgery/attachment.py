"""The record of a layer in a model, and the child that holds the layers of a module."""

from __future__ import annotations

from collections.abc import ValuesView
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from torch import fx, nn

from ..layers import NormLayer, StyleLayer

if TYPE_CHECKING:
    from .layouts import Unchecked


@dataclass
class Attachment:
    """Where a layer is in a model, and which method it belongs to.

    Attributes:
        method: 'snr'.
        site: 'stage1', or a module's name.
        name: Name of the module in the model.
        position: 'after' its module, 'before' it, or 'replace': in the place of a norm layer.
        of_container: The module is a container whose last child holds the layer.
        frozen: The layer is frozen together with the module that it belongs to; otherwise it trains and acts with the
            model.
        recipe: The training procedure without which the layer does nothing.
        unchecked: What the first forward pass checks; None if a probe has checked it.
    """

    method: str
    site: str
    name: str
    position: str = 'after'
    of_container: bool = False
    frozen: bool = False
    recipe: str | None = None
    unchecked: Unchecked | None = None

    def __str__(self) -> str:
        """'snr.stage1', the layer's label."""
        return f'{self.method}.{self.site}'

    def refuse_tracing(self, x: object, why: str) -> None:
        """Raise a NotImplementedError if `x` is a proxy with which `torch.fx` traces."""
        if isinstance(x, fx.Proxy):
            raise NotImplementedError(f'{self}: torch.fx cannot trace the model with the style at {self.name!r}: {why}')

    @property
    def asked(self) -> str:
        """What the user requested: the recipe, or the method."""
        return self.recipe or self.method


class Attachments(nn.ModuleDict):
    """The child `style` of a module: its layers by method, in the order in which they act.

    Attributes:
        muted: The layers do not run while this is true.
    """

    def __init__(self) -> None:
        super().__init__()
        self.muted = False

    if TYPE_CHECKING:

        def values(self) -> ValuesView[StyleLayer]: ...


def attachments_of_model(model: nn.Module) -> list[tuple[nn.Module, Attachments]]:
    """The modules that hold layers, each with its child `style`."""
    found = ((module, getattr(module, 'style', None)) for module in model.modules())
    return [(module, style) for module, style in found if isinstance(style, Attachments)]


def added_parameters(layer: StyleLayer) -> list[nn.Parameter]:
    """Parameters that the model lacks without the layer, or with a batch norm in the place of a norm layer."""
    attached = layer.attachment is not None and not replaces_norm(layer)
    return list(layer.parameters() if attached else layer.added_parameters())


def replaces_norm(layer: object) -> TypeGuard[NormLayer]:
    """Whether a style method has put the layer in the place of a norm layer."""
    record = layer.attachment if isinstance(layer, NormLayer) else None
    return record is not None and record.position == 'replace'
