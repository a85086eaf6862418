"""Several domains in one data set, so that one loader tests on all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.registry import DATASETS
from torch.utils.data import ConcatDataset, Dataset

from timm_stylenorm.errors import unknown


class _Domain(Dataset):
    """A data set whose samples say of which domain they are."""

    def __init__(self, domain: str, dataset: Any) -> None:
        self.domain, self.dataset = domain, dataset

    def domain_of(self, index: int) -> str:
        return self.domain

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        views = item['data_samples']
        many = isinstance(views, list)  # test-time augmentation
        for sample in views if many else [views]:
            sample.set_metainfo({'domain': self.domain})
        return {**item, 'domain': [self.domain] * len(views) if many else self.domain}


@DATASETS.register_module()
class DomainConcatDataset(ConcatDataset):
    """Segmentation data sets of several domains, one after the other.

    The domain's name is in the meta information of every sample, as `domain`, where `DomainIoUMetric` finds it, and in
    the batch, where `AdaBNHook` does.

    Args:
        domains: Data sets, or their configs, by the name of their domain.
        only: Names of the domains to use; all by default. `--cfg-options test_dataloader.dataset.only=NAME` for one.

    Raises:
        ValueError: No domain, an unknown name in `only`, or data sets of different classes.
    """

    def __init__(self, domains: Mapping[str, Any], only: str | Sequence[str] | None = None) -> None:
        chosen = list(domains) if only is None else [only] if isinstance(only, str) else list(only)
        if not chosen:
            raise ValueError('DomainConcatDataset: no domain to use')
        for name in chosen:
            if name not in domains:
                raise ValueError(unknown('domain', name, domains))
        parts = {name: domains[name] for name in chosen}
        parts = {name: DATASETS.build(part) if isinstance(part, dict) else part for name, part in parts.items()}
        super().__init__([_Domain(name, part) for name, part in parts.items()])
        first = parts[chosen[0]].metainfo
        for name, part in parts.items():
            if list(part.metainfo['classes']) != list(first['classes']):
                raise ValueError(f'DomainConcatDataset: the classes of {name} are not those of {chosen[0]}')
        self.metainfo = {**first, 'domains': chosen, 'known_domains': list(domains)}
