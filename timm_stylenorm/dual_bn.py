"""Dual batch norms of whole models: insert them, choose between the two batch norms, remove them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from .errors import unknown
from .layers import DualBatchNorm2d
from .layers.dualbn import ROUTES, Halves
from .surgery.add import add_style
from .surgery.context import override_attr
from .surgery.hooks import replace


def convert_dual_bn(model: nn.Module) -> nn.Module:
    """Replace every batch norm of feature maps by `DualBatchNorm2d`, in place; the auxiliary one starts as a copy.

    Args:
        model: A model with torch's batch norms, SyncBatchNorm, or timm's fused batch norms.

    Raises:
        ValueError: The model has no batch norm, a frozen one, or one that a style method has replaced; it is unchanged.
    """
    return add_style(model, 'dual_bn')


def split_dual_bn(model: nn.Module) -> nn.Module:
    """Replace dual batch norms by plain ones with the main weights and statistics, in place; other layers stay.

    The auxiliary weights and statistics are lost.
    """
    replace(model, {m: m.to_norm() for m in model.modules() if isinstance(m, DualBatchNorm2d)})
    return model


@contextmanager
def routed(model: nn.Module, route: str | Tensor | Sequence[bool]) -> Iterator[nn.Module]:
    """Within, send batches through one of the two batch norms: `with routed(model, 'adversarial'): ...`.

    Args:
        model: A model with dual batch norms.
        route: 'clean' (main), 'adversarial' (auxiliary), or, for a mixed batch in any order, one boolean for each
            image, true for the auxiliary batch norms.

    Raises:
        ValueError: The route is another word, or a mask that is not boolean and one-dimensional; in the forward pass,
            the mask has another size than the batch.
    """
    if isinstance(route, str) and route not in ROUTES:
        raise ValueError(unknown('route', route, ROUTES))
    chosen = route if isinstance(route, str) else Halves.of(route)
    with override_attr([m for m in model.modules() if isinstance(m, DualBatchNorm2d)], 'route', chosen):
        yield model
