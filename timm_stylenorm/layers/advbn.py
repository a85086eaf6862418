"""Adversarial batch-level channel statistics.

Shu, Wu, Goldblum, Goldstein, 'Encoding Robustness to Image Style via Adversarial Feature Perturbations', NeurIPS 2021,
arXiv:2009.08965.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import restyle
from .arguments import check, check_count
from .base import StyleLayer

if TYPE_CHECKING:
    from typing_extensions import Self


class AdvBN(StyleLayer):
    """Marks the cut of AdvBN and disturbs the features there: one factor multiplies each channel's mean over the batch,
    another the deviations from it.

        y = (x - m) * noise_std + m * noise_mean,    m = mean of x over images and positions, (C,)

    followed by max(y, 0) if x comes from a ReLU (see `clamp`). As in the authors' code, the formula has no standard
    deviation: the noise multiplies the centred map. The layer has no parameters. By itself it is the identity, also in
    training: the recipe `advbn` finds the noise and sets the output of the layer.

    Args:
        num_features: Not used; accepted because all layers share this signature.
        steps: Number of ascent steps of the recipe.
        step: Size of an ascent step.
        eps: The noise stays within [1 - eps, 1 + eps].
        clamp: Whether to clamp the result at 0 (derivative 0 there); 'auto' clamps if no value of the map is negative.

    Attributes:
        disturbed: The output of the layer; None if it returns its input.
        recorded: If it is a list, each forward pass appends its input, as passed in and as a map (N, C, *spatial).

    Raises:
        ValueError: `steps`, `step` or `eps` not positive, `steps` not an integer, or an unknown `clamp`.
    """

    steps: int
    step: float
    eps: float
    clamp: bool | str
    disturbed: Tensor | None = None
    recorded: list[Tensor] | None = None

    def __init__(
        self,
        num_features: int | None = None,
        steps: int = 6,
        step: float = 0.2,
        eps: float = 1.1,
        clamp: bool | str = 'auto',
    ) -> None:
        super().__init__()
        self.change(steps=steps, step=step, eps=eps, clamp=clamp)

    def change(self, **options: float | bool | str) -> None:
        """Change arguments of the layer."""
        check(self, **{k: v for k, v in options.items() if k not in ('clamp', 'steps')})
        check_count(self, 1, steps=options.get('steps', 1))
        if options.get('clamp', True) not in (True, False, 'auto'):
            raise ValueError(f"AdvBN: clamp is true, false or 'auto', got {options['clamp']!r}")
        vars(self).update(options)

    @classmethod
    def configure_group(cls, layers: Sequence[Self]) -> None:
        if len(layers) != 1:
            raise ValueError(f'advbn perturbs the features at one cut, got {len(layers)} sites')

    def forward(self, x: Tensor) -> Tensor:
        if self.recorded is not None and isinstance(x, Tensor):
            self.recorded.append(x)
        return super().forward(x)

    def restyle(self, x: Tensor) -> Tensor:
        if self.recorded is not None:
            self.recorded.append(x)
        return x if self.disturbed is None else self.disturbed

    def perturb(self, x: Tensor, noise_mean: Tensor, noise_std: Tensor) -> Tensor:
        """The map with the noise applied, differentiable with respect to all three arguments.

        Args:
            x: (N, C, *spatial).
            noise_mean: Multiplies the batch mean, (C,).
            noise_std: Multiplies the deviations from it, (C,).
        """
        mean = x.mean([0, *range(2, x.dim())], dtype=torch.promote_types(x.dtype, torch.float32))
        scale, shift = noise_std, mean * (noise_mean - noise_std)
        y = restyle(x, *(t.expand(x.shape[0], -1) for t in (scale, shift)))
        return F.relu(y) if self.clamps(x) else y

    def clamps(self, x: Tensor) -> bool:
        """Whether the features are clamped at 0."""
        return bool(x.amin() >= 0) if self.clamp == 'auto' else bool(self.clamp)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), 'disturbed': None, 'recorded': None}

    def extra_repr(self) -> str:
        return f'steps={self.steps}, step={self.step}, eps={self.eps}, clamp={self.clamp}'
