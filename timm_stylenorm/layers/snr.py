"""Style Normalization and Restitution: remove the style, then put back the part of it that the task needs.

Jin, Lan, Zeng, Chen, Zhang, 'Style Normalization and Restitution for Domain Generalization and Adaptation',
arXiv:2101.00588; first in CVPR 2020, arXiv:2005.11037.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import centred_affine, dual_causality_loss, instance_moments, restyle
from ..functional.formula import Rule
from .arguments import check, check_count, check_flag, check_range
from .base import StyleLayer, called, is_plain

Gate = Callable[..., Tensor]  # of mean, bias and further tensors


class SNR(StyleLayer):
    """Instance normalisation, followed by the restitution of what it removed, with a gate for each channel.

        F~ = weight * (x - m) / sqrt(v + eps) + bias          R = x - F~
        a  = sigmoid(fc2(relu(fc1(mean of R))))               (N, C), in (0, 1)
        y  = F~ + a * R                                       F- = F~ + (1 - a) * R, for the loss only

    x, y: (N, C, *spatial); m, v: instance mean and biased variance, in training and evaluation alike. The mean of R is
    m - bias, and y is an affine map of x, so only y itself is computed on the map. If fc1 and fc2 are plain
    convolutions, that kernel computes them from their weights; if somebody has changed them, they are called.

    With `num_classes`, a class head turns on the dual causality loss in training (`functional.dual_causality_loss` of
    the logits of F~, y, F-), stored in `aux` times `loss_weight`. `dense=False`: logits = head(mean over positions),
    entropies averaged over images. `dense=True`: logits = head at every position (a 1x1 convolution), entropies
    averaged over images and positions; the authors' segmentation code trains without this loss.
    The logits of y are stored in `logits`: for the deepest SNR of a model, `style_losses` adds their cross entropy
    times `ce_weight`, as in the authors' file model_resnet.py. A new head predicts equal probabilities for all classes:
    all entropies are equal, and the dual causality loss of every layer starts at loss_weight * 2 ln 2, 0.0139; it
    changes once the head tells classes apart. Without `num_classes` there is no head, so no parameter is without a
    gradient. Hosts that know the classes pass them to layers that were built without them (`set_classes`); if nobody
    does, a warning in training says that the loss is off. Evaluation needs no head, and checkpoints with and without
    a head can be loaded.

    Args:
        num_features: C.
        reduction: The gate's hidden width is C // reduction, at least 1.
        eps: Added to the variance.
        num_classes: Number of classes of the loss; 0 turns it off, None leaves the number to the host.
        dense: Whether the loss looks at every position.
        loss_weight: Weight of the dual causality loss, 0.01 in the authors' code.
        ce_weight: Weight of the cross entropy, 0.01 in the authors' code.

    Raises:
        ValueError: `num_features`, `reduction` or `eps` not positive, or `num_classes` below 0.
    """

    training_only = ('head.weight', 'head.bias')

    def __init__(
        self,
        num_features: int,
        reduction: int = 16,
        eps: float = 1e-5,
        num_classes: int | None = None,
        dense: bool = False,
        loss_weight: float = 0.01,
        ce_weight: float = 0.01,
    ) -> None:
        super().__init__()
        check(self, num_features=num_features, reduction=reduction, eps=eps)
        check_count(self, 0, num_classes=0 if num_classes is None else num_classes)
        check_range(self, 0, loss_weight=loss_weight, ce_weight=ce_weight)
        check_flag(self, dense=dense)
        self.waits_for = 'classes' if num_classes is None else ''
        self.reduction, self.eps, self.dense = reduction, eps, dense
        self.loss_weight, self.ce_weight = loss_weight, ce_weight
        hidden = max(int(num_features // reduction), 1)
        self.weight = nn.Parameter(torch.empty(num_features))
        self.bias = nn.Parameter(torch.empty(num_features))
        self.fc1 = nn.Conv2d(num_features, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, num_features, 1)
        self.head = nn.Linear(num_features, num_classes) if num_classes else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        for conv in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
            nn.init.constant_(conv.bias, 0.0)  # type: ignore[arg-type]
        self._reset_head()

    def _reset_head(self) -> None:
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.01)
            nn.init.zeros_(self.head.bias)

    def set_classes(self, num_classes: int, dense: bool) -> None:
        self.waits_for, self.dense = '', dense
        if num_classes:
            self.head = nn.Linear(len(self.weight), num_classes).to(self.weight)
            self._reset_head()

    def loss_terms(self) -> tuple[str, ...]:
        if self.waits_for:
            return ('none until it knows the classes',)
        start = f'{self.loss_weight * 2 * math.log(2):.4f}'
        causality = f'dual causality, {start} a layer until its new head tells classes apart'
        return (causality, 'cross entropy') if self.has_loss() else ()

    def has_loss(self) -> bool:
        return self.head is not None

    def restyle(self, x: Tensor) -> Tensor:
        gate, tensors = self._gate(x)
        rule: Rule = partial(_snr_rule, gate=gate, eps=self.eps)
        if not self.training or self.head is None:
            return centred_affine(x, rule, self.weight, self.bias, *tensors)
        rule = partial(_snr_rule_with_branches, gate=gate, eps=self.eps, dense=self.dense)
        y, *branches = centred_affine(x, rule, self.weight, self.bias, *tensors)
        maps = (restyle(x, *branches[:2]), y, restyle(x, *branches[2:])) if self.dense else branches
        logits = [self._logits(self.head, f) for f in maps]
        self.logits = logits[1]
        self.aux = self.loss_weight * dual_causality_loss(*logits)
        return y

    def _gate(self, x: Tensor) -> tuple[Gate, tuple[Tensor, ...]]:
        """A function that computes the gate in the rule, and its tensors: those of plain convolutions, or the gate."""
        if is_plain(self.fc1, nn.Conv2d) and is_plain(self.fc2, nn.Conv2d):
            first, second = self.fc1, self.fc2
            return _gate_rule, tuple(getattr(conv, name) for conv in (first, second) for name in ('weight', 'bias'))
        mean, _ = instance_moments(x)
        hidden = called(self.fc1, (mean - self.bias)[..., None, None]).relu()
        return _given, (called(self.fc2, hidden).flatten(1).sigmoid(),)

    def _logits(self, head: nn.Module, f: Tensor) -> Tensor:
        """Class logits of pooled features (N, C), or at every position of a map (N, C, *spatial)."""
        if f.dim() == 2:
            return called(head, f)
        if not is_plain(head, nn.Linear):
            return head(f.movedim(1, -1)).movedim(-1, 1)
        weight = head.weight
        convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[f.dim()]
        weight = weight.reshape(*weight.shape, *(1,) * (f.dim() - 2)).to(f.dtype)
        return convolve(f, weight, head.bias.to(f.dtype))

    def extra_repr(self) -> str:
        return f'{len(self.weight)}, reduction={self.reduction}, eps={self.eps}'


def _gate_rule(mean: Tensor, bias: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The gate a, (N, C), from the weights of its two convolutions."""
    hidden = F.linear(mean - bias, w1.flatten(1), b1).relu()
    return F.linear(hidden, w2.flatten(1), b2).sigmoid()


def _given(mean: Tensor, bias: Tensor, gate: Tensor) -> Tensor:
    """The gate, if it has been computed already."""
    return gate


def _snr_rule(
    mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *tensors: Tensor, gate: Gate, eps: float
) -> tuple[Tensor, Tensor]:
    a = gate(mean, bias, *tensors)
    return a + (1 - a) * weight * (var + eps).pow(-0.5), torch.lerp(bias.expand_as(mean), mean, a)


def _snr_rule_with_branches(
    mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *tensors: Tensor, gate: Gate, eps: float, dense: bool
) -> tuple[Tensor, ...]:
    """Scale and level of y, then scales and shifts of F~ and F- (`dense`), or F~, y, F- pooled over the positions."""
    a, scale, bias = gate(mean, bias, *tensors), weight * (var + eps).pow(-0.5), bias.expand_as(mean)
    level, useless = torch.lerp(bias, mean, a), torch.lerp(mean, bias, a)
    useful = a + (1 - a) * scale, level
    if dense:
        other = 1 - a + a * scale
        return *useful, scale, bias - mean * scale, other, useless - mean * other
    return *useful, bias, level, useless
