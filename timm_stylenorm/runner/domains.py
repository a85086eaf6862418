"""Data sets of several domains, one after the other: what `MultiDomainDataset` is in every host."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch.utils.data import Dataset

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
        known = getattr(self.dataset, 'get_data_info', None)
        return f'number {index} of {self.domain}' if known is None else str(known(index).get('img_path'))

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, object]:
        item = self.dataset[index]
        views = len(item['inputs']) if isinstance(item['inputs'], list) else 0
        samples = item.get('data_samples', [])
        for sample in samples if isinstance(samples, list) else [samples]:
            sample.set_metainfo({'domain': self.domain})
        return {**item, 'domain': [self.domain] * views if views else self.domain}


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
