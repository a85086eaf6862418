"""The tensors of a file in the names of a model, and how they fit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from ..checkpoints import Fit, compare
from ..layers.owned import own_names
from .companions import training_only_keys


def fitted(
    model: nn.Module,
    state: Mapping[str, Tensor],
    optional: Iterable[str] = (),
    wrappers: Sequence[str] = ('module.', 'net.'),
) -> tuple[dict[str, Tensor], Fit]:
    """A state dict of a plain or a styled model in the names of this one, and how it fits; nothing is loaded.

    Args:
        model: The model to be loaded.
        state: Of the file.
        optional: Keys that either may have alone, beside what only training needs.
        wrappers: Prefixes that are taken off, the outermost first: that of DistributedDataParallel, and that of the
            Runner's classifier, whose network `model` is.
    """
    for prefix in wrappers:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    named = own_names(model, state)
    return named, compare(model.state_dict(), named, {*training_only_keys(model), *optional})
