"""Data sets of several domains, one after the other: what all hosts' `MultiDomainDataset` have in common."""

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch.utils.data import ConcatDataset, Dataset

from ..errors import unknown

T = TypeVar('T')


class DomainPart(Dataset):
    """A data set whose samples name their domain: under the key `domain`, and in their meta information.

    Args:
        domain: Its name.
        dataset: Returns dicts with `inputs`, and maybe `data_samples`; lists of both under test-time augmentation.
    """

    def __init__(self, domain: str, dataset: Dataset) -> None:
        self.domain, self.dataset = domain, dataset

    def domain_of(self, index: int) -> str:
        """The domain of any image."""
        return self.domain

    def image_of(self, index: int) -> str:
        """The path of an image, or its number if the data set does not tell the path."""
        found = image_of(self.dataset, index)
        return f'{found} of {self.domain}' if found == f'number {index}' else found

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, object]:
        return in_domain(self.dataset[index], self.domain)


class DomainsInOrder(ConcatDataset):
    """Data sets one after the other, with the domain and the path of each image, as its own data set tells them.

    `keep_going`: whether a test goes on after a file that cannot be read; see `stand_ins`.
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
        """The path of an image, or its number if the data set does not tell the path."""
        return image_of(*self._place(index))


def image_of(dataset: object, index: int) -> str:
    """The path of an image, or its number if the data set does not tell the path."""
    if hasattr(dataset, 'image_of'):
        return str(dataset.image_of(index))
    known = getattr(dataset, 'get_data_info', None)
    return f'number {index}' if known is None else str(known(index).get('img_path', f'number {index}'))


def in_domain(item: dict, domain: str) -> dict[str, object]:
    """A sample, of one or several views, with its domain added."""
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
        build: Builds a data set from a config.

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
    """Names of the domains, without the key `_scope_` that mmengine adds to dicts that a config inherits."""
    return [name for name in domains if name != '_scope_']
