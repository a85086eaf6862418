"""Two batch norms in place of one: a main one for clean images, an auxiliary one for adversarial or stylised images.

Xie et al., 'Adversarial Examples Improve Image Recognition', CVPR 2020, arXiv:1911.09665, as used by AdvBN
(arXiv:2009.08965) and shape-texture debiased training (arXiv:2010.05981).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .norms import BATCH_NORMS
from .owned import OwnsBatchNorm

ROUTES = ('clean', 'adversarial')


@dataclass(frozen=True)
class Halves:
    """The images of a mixed batch that go through the auxiliary batch norm: all from `first` on, or those in `aux`.

    Attributes:
        size: Number of images, N.
        first: Index of the first auxiliary image if all clean images come before it; None for any other order.
        main: Indices of the clean images.
        aux: Indices of the auxiliary images.
        back: Position of each image in [clean; auxiliary].
    """

    size: int
    first: int | None
    main: Tensor
    aux: Tensor
    back: Tensor

    @classmethod
    def of(cls, mask: Tensor | Sequence[bool]) -> Halves:
        """The halves for one boolean per image, which is true for the auxiliary batch norm."""
        flags = torch.as_tensor(mask)
        if flags.dtype != torch.bool or flags.dim() != 1:
            raise ValueError(
                f'a route is {" or ".join(map(repr, ROUTES))} or a boolean mask (N,), '
                f'got {flags.dtype} of shape {tuple(flags.shape)}'
            )
        order = flags.to(torch.uint8).argsort(stable=True)
        clean = int((~flags).sum())
        in_order = bool((order == torch.arange(len(flags), device=flags.device)).all())
        return cls(len(flags), clean if in_order else None, order[:clean], order[clean:], order.argsort())

    def apply(self, x: Tensor, main: Callable[[Tensor], Tensor], aux: Callable[[Tensor], Tensor]) -> Tensor:
        """The results of `main` and `aux` for their parts of `x` (N, ...), in the order of `x`."""
        if len(x) != self.size:
            raise ValueError(f'DualBatchNorm2d: the route is for {self.size} images, and the batch has {len(x)}')
        if len(self.main) == self.size:
            return main(x)
        if len(self.aux) == self.size:
            return aux(x)
        if self.first is not None:
            return torch.cat([main(x[: self.first]), aux(x[self.first :])])
        parts = [main(x[self.main.to(x.device)]), aux(x[self.aux.to(x.device)])]
        return torch.cat(parts)[self.back.to(x.device)]


class DualBatchNorm2d(OwnsBatchNorm):
    """Batch norm with main and auxiliary weights and statistics, routed by an explicit tag; see `dual_bn.routed`.

    x, y: (N, C, H, W); the 1d and 3d classes differ only in the shape they expect. Keys of the state dict: `bn.*` and
    `aux_bn.*`; in the authors' file aux_bn.py the main keys have no prefix. The state of a plain batch norm is loaded
    into both. Both are called as modules and may be any kind of batch norm.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Momentum of the running statistics; None for plain averages.

    Attributes:
        route: 'clean' for the main batch norm, 'adversarial' for the auxiliary one, or `Halves`. It applies in
            training and evaluation; 'clean' unless `routed` changes it.

    Raises:
        ValueError: `num_features` or `eps` not positive; in forward, a map of other dimensions, or a batch whose size
            is not that of the mask.
    """

    route: str | Halves = 'clean'

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps, momentum)
        self.aux_bn: nn.Module = BATCH_NORMS[self.dim](num_features, eps, momentum)

    def from_plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        main = super().from_plain(state)
        aux = {f'aux_{key}': value for key, value in main.items() if getattr(self.aux_bn, key[3:], value) is not None}
        return {**main, **{key: value.clone() for key, value in aux.items()}}

    def restyle(self, x: Tensor) -> Tensor:
        if x.dim() != self.dim:
            raise ValueError(f'{type(self).__name__}: expected {self.dim} dimensions, got shape {tuple(x.shape)}')
        if self.route == 'clean' or not self.enabled:
            return self.bn(x)
        if isinstance(self.route, Halves):
            return self.route.apply(x, self.bn, self.aux_bn)
        return self.aux_bn(x)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), 'route': 'clean'}


class DualBatchNorm1d(DualBatchNorm2d):
    """`DualBatchNorm2d` for (N, C, L)."""

    dim = 3


class DualBatchNorm3d(DualBatchNorm2d):
    """`DualBatchNorm2d` for (N, C, D, H, W)."""

    dim = 5


DualBatchNorm2d.forms = {3: DualBatchNorm1d, 5: DualBatchNorm3d}
