"""What a caller can choose about the images of a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from ..errors import unknown


@dataclass(frozen=True)
class Options:
    """What a caller can choose about the images of a test.

    Attributes:
        subset: 'robustbench', the 5,000 validation images of that benchmark.
        limit: Maximum number of images of each part, spread evenly.
        seed: Seed of everything random: corruptions made on the fly, the start of PGD.
        corruptions: Names of the only corruptions to use.

    Raises:
        ValueError: `limit` is below 1.
    """

    subset: str | None = None
    limit: int | None = None
    seed: int = 0
    corruptions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f'limit: expected at least 1, got {self.limit}')

    def chosen(self, known: Sequence[str]) -> Sequence[str]:
        """The corruptions to use, of those of a test.

        Raises:
            ValueError: An unknown one.
        """
        for name in self.corruptions or ():
            if name not in known:
                raise ValueError(unknown('corruption', name, known))
        return known if self.corruptions is None else self.corruptions

    def of(self, takes: Sequence[str]) -> Options:
        """These options for a protocol that takes only some of 'subset' and 'corruptions'."""
        subset = self.subset if 'subset' in takes else None
        return replace(self, subset=subset, corruptions=self.corruptions if 'corruptions' in takes else None)

    def numbers(self) -> tuple[int, ...] | None:
        """Numbers of the validation images to use; None for all.

        Raises:
            ValueError: An unknown subset.
        """
        if self.subset is None:
            return None
        if self.subset != 'robustbench':
            raise ValueError(unknown('subset of ImageNet', self.subset, ['robustbench']))
        return _robustbench()


@cache  # asked for each part
def _robustbench() -> tuple[int, ...]:
    text = resources.files(__package__).joinpath('robustbench_5000.txt').read_text()
    return tuple(int(number) for number in text.split())
