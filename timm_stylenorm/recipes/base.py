"""The base of all recipes: a training procedure of more than one pass for each batch, the same for every host."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from ..errors import unknown
from ..layers import DualBatchNorm2d
from ..surgery.add import replace_norms

T = TypeVar('T')
Channels = Sequence[float] | Tensor
Target = Tensor | Sequence  # labels in the form of the host: a tensor, or OpenMMLab's data samples


@dataclass(frozen=True)
class LossTerm:
    """A part of the images of a batch, with its target and the weight of its loss.

    Attributes:
        target: Labels in whatever form the host uses.
        rows: The images of the batch that belong to this part.
        weight: Weight of this part's loss.
        name: Prefix of the names of its losses; '' for none.
        criterion: Computes the loss from the logits of these images, in place of the host's loss, which needs the
            target; it returns None for no loss. Classifiers support it.
    """

    target: Any  # a `Target`; the host's criterion knows its exact type
    rows: slice = field(default_factory=lambda: slice(None))
    weight: float = 1.0
    name: str = ''
    criterion: Callable[[Tensor], Tensor | None] | None = None

    def label(self, loss: str) -> str:
        """'loss_cls' -> 'adv.loss_cls'."""
        return f'{self.name}.{loss}' if self.name else loss


ForwardLoss = Callable[[Tensor, Sequence[LossTerm]], dict[str, Tensor]]


class Recipe:
    """A training procedure; this base class does the plain forward pass and loss.

    It holds settings but nothing of a particular model, so copies of a host share it. A host calls `prepare` once,
    before it creates DDP wrappers, EMA copies and optimizers. It calls `losses` in place of its plain forward pass and
    loss, inside the module that DDP wraps.
    """

    def prepare(
        self, model: nn.Module, encoder: nn.Module | None = None, mean: Channels = (0.0,), std: Channels = (1.0,)
    ) -> None:
        """Put the layers that the recipe needs into a model, in place.

        Args:
            model: The whole network: a classifier or a segmentor.
            encoder: The part of the model in which stages are looked up; `model` by default.
            mean: The images that the model will see are (values in [0, 1] - mean) / std, for each channel.
            std: See `mean`.
        """

    def set_progress(self, share: float, batch: int = 0) -> None:
        """Set how far the training has progressed, for recipes that change during training; hosts call it.

        Args:
            share: Completed share of the training, 0 to 1: finished epochs / all epochs.
            batch: Index of the next batch of this epoch, from 0.
        """

    def losses(self, model: nn.Module, images: Tensor, target: Target, forward_loss: ForwardLoss) -> dict[str, Tensor]:
        """The losses of all passes over one training batch, to be summed and differentiated once by the host.

        Args:
            model: The model that was passed to `prepare`.
            images: (N, C, H, W), normalised.
            target: Their labels, in the form of the host.
            forward_loss: `forward_loss(images, parts) -> losses` runs the host's forward pass in the current mode of
                the model and returns its losses by name. Losses that count have 'loss' or a part 'style' in their
                names; the others are only logged. Each loss is the mean over the rows of a part, times its weight,
                under the name that `LossTerm.label` makes; losses of the same name are summed.
        """
        return forward_loss(images, [LossTerm(target)])

    def __deepcopy__(self, memo: object) -> Recipe:
        return self


def build(what: str, table: Mapping[str, Callable[..., T]], spec: str | Mapping[str, object]) -> T:
    """An entry of a table from its name, or from a dict with its name under `type` and its arguments.

    Raises:
        ValueError: There is no such entry; `what` names its kind in the message.
        TypeError: An argument that the entry does not have.
    """
    if not isinstance(spec, str) and not (isinstance(spec, Mapping) and isinstance(spec.get('type'), str)):
        raise ValueError(f"a {what} is a name, or a dict with its name under 'type', got {spec!r}")
    options = {'type': spec} if isinstance(spec, str) else {k: v for k, v in spec.items() if k != '_scope_'}
    name = str(options.pop('type'))
    if name not in table:
        raise ValueError(unknown(what, name, table))
    known = list(inspect.signature(table[name]).parameters)
    for key in options:
        if key not in known:
            raise TypeError(unknown(f'argument of {what} {name!r}:', key, known))
    return table[name](**options)


def total(losses: Mapping[str, Tensor | Sequence[Tensor]]) -> Tensor:
    """The sum of the task's own losses, without the losses of style layers; the dict is read as mmengine reads it."""
    terms = [v for k, v in losses.items() if 'loss' in k and 'style' not in k.split('.')]
    if not terms:
        raise ValueError(f"the names of losses that count contain 'loss', and the host gave {sorted(losses)}")
    means = [t.mean() for v in terms for t in ([v] if isinstance(v, Tensor) else v)]
    return sum(means[1:], means[0])


def make_dual(model: nn.Module, names: Iterable[str]) -> None:
    """Replace the batch norms of these names by dual ones, in place, unless they are dual already."""
    norms = dict(model.named_modules())
    plain = [name for name in names if not isinstance(norms[name], DualBatchNorm2d)]
    if plain:
        replace_norms(model, 'dual_bn', plain)


def refuse_checkpointing(model: nn.Module) -> None:
    """Raise if a model recomputes activations: the backward pass would recompute them by another route.

    Raises:
        ValueError: A module uses activation checkpointing; the message names it.
    """
    for name, module in model.named_modules():
        if getattr(module, 'grad_checkpointing', False) or getattr(module, 'with_cp', False):
            raise ValueError(
                f'recipes do not go with activation checkpointing, which {name or type(module).__name__!r} uses: '
                'the recomputation would not know which of several passes it belongs to'
            )
