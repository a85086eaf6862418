"""Dual batch norms of whole models: put them in, choose between the two, take them out."""

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
    """Replace every batch norm of maps by `DualBatchNorm2d`, in place; the auxiliary one starts as a copy.

    Args:
        model: With torch's, SyncBN's or timm's fused batch norms.

    Raises:
        ValueError: No batch norm, a frozen one, or one that a style method has replaced; the model is unchanged.
    """
    return add_style(model, 'dual_bn')


def split_dual_bn(model: nn.Module) -> nn.Module:
    """Batch norms with the main weights and statistics in the place of dual ones, in place; other layers stay.

    The auxiliary ones are lost.
    """
    replace(model, {m: m.to_norm() for m in model.modules() if isinstance(m, DualBatchNorm2d)})
    return model


@contextmanager
def routed(model: nn.Module, route: str | Tensor | Sequence[bool]) -> Iterator[nn.Module]:
    """Send the batches within through one of the two batch norms: `with routed(model, 'adversarial'): ...`.

    Args:
        model: With dual batch norms.
        route: 'clean' (main), 'adversarial' (auxiliary), or one boolean for each image of a mixed batch, true for the
            auxiliary ones; any order.

    Raises:
        ValueError: Another word, a mask that is not boolean and one-dimensional, or, in the forward, of another size
            than the batch.
    """
    if isinstance(route, str) and route not in ROUTES:
        raise ValueError(unknown('route', route, ROUTES))
    chosen = route if isinstance(route, str) else Halves.of(route)
    with override_attr([m for m in model.modules() if isinstance(m, DualBatchNorm2d)], 'route', chosen):
        yield model
