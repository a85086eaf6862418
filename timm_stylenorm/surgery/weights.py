"""The tensors of a file under the names of a model, and how they fit the model."""

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
    """A state dict of a plain or styled model, renamed to the keys of this one, and how it fits; nothing is loaded.

    Args:
        model: The model to be loaded.
        state: The state dict of the file.
        optional: Keys that either of them may lack, besides those that only training needs.
        wrappers: Prefixes that are removed, the outermost first: by default those of DistributedDataParallel and of the
            Runner's classifier, whose network is `model`.
    """
    for prefix in wrappers:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    named = own_names(model, state)
    return named, compare(model.state_dict(), named, {*training_only_keys(model), *optional})
