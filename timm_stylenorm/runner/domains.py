"""Data sets of several domains, one after the other: what `MultiDomainDataset` is in every host."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch.utils.data import ConcatDataset, Dataset

from ..errors import unknown

T = TypeVar('T')


class DomainPart(Dataset):
    """A data set whose samples say of which domain they are: under the key `domain`, and in their meta information.

    Args:
        domain: Its name.
        dataset: Gives dicts with `inputs`, and maybe `data_samples`; lists of both under test-time augmentation.
    """

    def __init__(self, domain: str, dataset: Dataset) -> None:
        self.domain, self.dataset = domain, dataset

    def domain_of(self, index: int) -> str:
        """Of any image."""
        return self.domain

    def image_of(self, index: int) -> str:
        """The path of an image, or its number where the data set does not tell."""
        found = image_of(self.dataset, index)
        return f'{found} of {self.domain}' if found == f'number {index}' else found

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, object]:
        return in_domain(self.dataset[index], self.domain)


class DomainsInOrder(ConcatDataset):
    """Data sets one after the other, and of each image the domain and the path, as its data set tells them.

    `keep_going`: whether a test goes on after a file that cannot be read, see `stand_ins`.
    """

    keep_going = False

    def _place(self, index: int) -> tuple[Dataset, int]:
        number = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[number], index - (self.cumulative_sizes[number - 1] if number else 0)

    def domain_of(self, index: int) -> str | None:
        """The domain of an image."""
        part, own = self._place(index)
        return part.domain_of(own) if hasattr(part, 'domain_of') else None

    def image_of(self, index: int) -> str:
        """The path of an image, or its number where the data set does not tell."""
        return image_of(*self._place(index))


def image_of(dataset: object, index: int) -> str:
    """The path of an image, or its number where the data set does not tell."""
    if hasattr(dataset, 'image_of'):
        return str(dataset.image_of(index))
    known = getattr(dataset, 'get_data_info', None)
    return f'number {index}' if known is None else str(known(index).get('img_path', f'number {index}'))


def in_domain(item: dict, domain: str) -> dict[str, object]:
    """A sample, of one or several views, that says of which domain it is."""
    for sample in samples_of(item):
        sample.set_metainfo({'domain': domain})
    views = item['inputs']
    return {**item, 'domain': [domain] * len(views) if isinstance(views, list) else domain}


def samples_of(item: dict) -> list:
    """The data samples of all views of an image."""
    samples = item.get('data_samples', [])
    return samples if isinstance(samples, list) else [samples]


def parts_by_domain(
    domains: Mapping[str, dict | T], only: str | Sequence[str] | None, build: Callable[[dict], T]
) -> dict[str, T]:
    """The data sets of the domains that are used.

    Args:
        domains: Data sets, or their configs, by the name of their domain.
        only: Names of the domains to use; None for all.
        build: Makes a data set of a config.

    Raises:
        ValueError: No domain, an unknown name in `only`, or data sets of different classes.
    """
    known = known_domains(domains)
    chosen = known if only is None else [only] if isinstance(only, str) else list(only)
    if not chosen:
        raise ValueError('MultiDomainDataset: no domain to use')
    for name in chosen:
        if name not in known:
            raise ValueError(unknown('domain', name, known))
    parts = {name: build(part) if isinstance(part, dict) else part for name, part in domains.items() if name in chosen}
    classes = {name: getattr(part, 'metainfo', {}).get('classes') for name, part in parts.items()}
    for name in chosen:
        if list(classes[name] or ()) != list(classes[chosen[0]] or ()):
            raise ValueError(f'MultiDomainDataset: the classes of {name} are not those of {chosen[0]}')
    return {name: parts[name] for name in chosen}


def known_domains(domains: Mapping[str, object]) -> list[str]:
    """Their names, without mmengine's mark in dicts that a config takes over from another."""
    return [name for name in domains if name != '_scope_']
