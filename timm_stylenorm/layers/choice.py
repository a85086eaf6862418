"""Which layers of a model act in a forward: a fixed number of them, chosen anew for each."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

REMEMBERED = 4096  # calls whose outcome is known when activation checkpointing repeats them


class Choice:
    """In each forward, with a probability, exactly `active` of `count` layers, drawn without replacement; else none.

    A forward begins with the first call of any layer, and ends where one is called again.

    Each call takes one number from torch's generator of the CPU; the first call's is the seed of the choice.
    Activation checkpointing gives a repeated call the same number, by which it finds what the call did. Forwards in
    threads of their own, as those of DataParallel's replicas, choose each for itself; so do processes.

    Args:
        count: Of layers.
        active: Of those that act; all where there are fewer.
    """

    def __init__(self, count: int, active: int) -> None:
        self.count, self.active = count, min(active, count)
        self._known: OrderedDict[tuple[int, int, float], bool] = OrderedDict()
        self._now = threading.local()

    @torch.compiler.disable
    def acts(self, index: int, p: float) -> bool:
        """Whether the layer of this index acts in this call, where `p` is the probability that any does."""
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
        """Copies and pickles begin a forward of their own."""
        return Choice, (self.count, self.active)
