"""Several domains in one data set, so that one loader tests on all of them."""

import os.path as osp
from collections.abc import Mapping, Sequence
from logging import WARNING
from typing import Any

from mmengine.logging import print_log
from mmseg.registry import DATASETS
from torch.utils.data import ConcatDataset, Dataset

from timm_stylenorm.errors import unknown
from timm_stylenorm.runner.loaders import with_pipeline


def parts_of(dataset: object) -> list[object]:
    """The data sets with files that a data set or wrapper consists of."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    return [dataset] if inner == [None] else [leaf for part in inner for leaf in parts_of(part)]


def image_folder(dataset: object) -> str | None:
    """The folder that all images of a data set or wrapper lie in or below, under names that differ without suffix.

    None if the data set does not say so: it has no folder, or several suffixes of images.
    """
    parts = parts_of(dataset)
    prefixes = [getattr(part, 'data_prefix', None) or {} for part in parts]
    folders = [prefix['img_path'] for prefix in prefixes if isinstance(prefix.get('img_path'), str)]
    suffixes = {osp.splitext(f'x{getattr(part, "img_suffix", "")}')[1] for part in parts}
    if len(suffixes) != 1 or '' in suffixes or len(folders) != len(parts):
        return None
    try:
        return osp.commonpath([osp.abspath(folder) for folder in folders])
    except ValueError:  # on two drives
        return None


def image_folders(dataset: object) -> dict[str, str]:
    """`image_folder` by domain, or of the whole data set under the name ''."""
    domains = {part.domain: part.dataset for part in getattr(dataset, 'datasets', ()) if isinstance(part, _Domain)}
    found = {name: image_folder(part) for name, part in (domains or {'': dataset}).items()}
    return {name: folder for name, folder in found.items() if folder}


def _replaced(parts: dict[str, object], pipeline: Sequence[object], keep: Sequence[str]) -> dict[str, Any]:
    """The domains' data sets with this pipeline; the log names those that lose one of their own by it."""
    views = bool(pipeline) and isinstance(pipeline[-1], dict) and pipeline[-1].get('type') == 'TestTimeAug'
    found = {n: part if n in keep and not views else with_pipeline(part, pipeline) for n, part in parts.items()}
    if views:
        lost = [name for name in parts if name in keep]
    else:
        lost = [name for name, part in parts.items() if _steps(part) not in ([], _steps(found[name]))]
    if lost:
        cure = '' if views else f'; keep={lost} keeps them'
        what = f'DomainConcatDataset: pipeline replaces the own transforms of {", ".join(lost)}'
        print_log(what + cure, 'current', WARNING)
    return found


def _steps(dataset: Any) -> list[str]:
    pipelines = [getattr(part, 'pipeline', None) for part in parts_of(dataset)]
    return [repr(step) for pipeline in pipelines for step in getattr(pipeline, 'transforms', ())]


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
    the batch, where `AdaBNHook` does. The folder of each domain's images is in `metainfo['image_folders']`.

    Args:
        domains: Data sets, or their configs, by the name of their domain.
        only: Names of the domains to use; all by default. `--cfg-options test_dataloader.dataset.only=NAME` for one.
        pipeline: Transforms that replace those of every domain; mmseg's tools write and read this key. Transforms with
            the attribute `of_the_domain`, such as `ImageCorruption`, stay.
        keep: Names of the domains whose own transforms `pipeline` does not replace. If it ends with `TestTimeAug` it
            replaces them too, since one test cannot mix samples with one view and samples with several.

    Raises:
        ValueError: No domain, an unknown name in `only` or `keep`, or data sets of different classes.
        TypeError: `pipeline` is given, and a data set has none.
    """

    def __init__(
        self,
        domains: Mapping[str, Any],
        only: str | Sequence[str] | None = None,
        pipeline: Sequence[object] | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        domains = {name: part for name, part in domains.items() if name != '_scope_'}  # mmengine's mark in configs
        chosen = list(domains) if only is None else [only] if isinstance(only, str) else list(only)
        if not chosen:
            raise ValueError('DomainConcatDataset: no domain to use')
        for name in (*chosen, *keep):
            if name not in domains:
                raise ValueError(unknown('domain', name, domains))
        parts = {name: domains[name] for name in chosen}
        parts = {name: DATASETS.build(part) if isinstance(part, dict) else part for name, part in parts.items()}
        if pipeline is not None:
            parts = _replaced(parts, pipeline, keep)
        super().__init__([_Domain(name, part) for name, part in parts.items()])
        first = parts[chosen[0]].metainfo
        for name, part in parts.items():
            if list(part.metainfo['classes']) != list(first['classes']):
                raise ValueError(f'DomainConcatDataset: the classes of {name} are not those of {chosen[0]}')
        self.metainfo = {**first, 'domains': chosen, 'known_domains': list(domains)}
        self.metainfo['image_folders'] = image_folders(self)
        # what mmseg's confusion_matrix.py asks of a data set
        leaf = parts_of(parts[chosen[0]])[0]
        self.METAINFO = self.metainfo
        self.ignore_index = getattr(leaf, 'ignore_index', 255)
        self.reduce_zero_label = getattr(leaf, 'reduce_zero_label', False)
