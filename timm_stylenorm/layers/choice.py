"""The choice of the layers that act in a forward pass: a fixed number of them, drawn anew for each pass."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

REMEMBERED = 4096  # calls whose outcome is kept, in case activation checkpointing repeats them


class Choice:
    """Draws `active` of `count` layers without replacement for each forward pass, with a probability; otherwise none.

    A forward pass begins with the first call of any layer, and ends when a layer is called again.

    Each call takes one number from torch's CPU generator; the number of the first call is the seed of the choice.
    With activation checkpointing, a repeated call gets the same number, which identifies the outcome of the original
    call. Forward passes in separate threads, such as DataParallel's replicas, choose independently; so do processes.

    Args:
        count: Number of layers.
        active: Number of layers that act; all if there are fewer.
    """

    def __init__(self, count: int, active: int) -> None:
        self.count, self.active = count, min(active, count)
        self._known: OrderedDict[tuple[int, int, float], bool] = OrderedDict()
        self._now = threading.local()

    @torch.compiler.disable
    def acts(self, index: int, p: float) -> bool:
        """Whether the layer with this index acts in this call; `p` is the probability that any layer acts."""
        seed = int(torch.randint(2**62, (), device='cpu'))
        key = seed, index, p
        if key not in self._known:
            if index in getattr(self._now, 'called', (index,)):
                self._now.called, self._now.chosen = set(), self._choose(seed, p)
            self._now.called.add(index)
            self._known[key] = index in self._now.chosen
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[key]

    def _choose(self, seed: int, p: float) -> set[int]:
        generator = torch.Generator('cpu').manual_seed(seed)
        if torch.rand((), generator=generator).item() >= p:
            return set()
        return set(torch.randperm(self.count, generator=generator)[: self.active].tolist())

    def __reduce__(self) -> tuple[type[Choice], tuple[int, int]]:
        """Copies and pickles begin with a new forward pass."""
        return Choice, (self.count, self.active)
