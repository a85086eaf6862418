"""Several domains in one data set, so that one data loader tests on all of them."""

import os.path as osp
from collections.abc import Mapping, Sequence
from logging import WARNING
from typing import Any

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from timm_stylenorm.errors import unknown
from timm_stylenorm.runner.domains import DomainPart, DomainsInOrder, known_domains, parts_by_domain
from timm_stylenorm.runner.loaders import with_pipeline

from .loading import check_sizes
from .stand_ins import item_or_stand_in


def parts_of(dataset: object) -> list[Any]:
    """Return the innermost data sets, which list files, of a data set or wrapper."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    return [dataset] if inner == [None] else [leaf for part in inner for leaf in parts_of(part)]


def image_folder(dataset: object) -> str | None:
    """Return the common folder of all images of a data set or wrapper, whose names also differ without suffix.

    None if a part of the data set has no image folder, or if the image suffixes differ or are unknown.
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


def _by_domain(dataset: object) -> dict[str, object]:
    parts = [part for part in getattr(dataset, 'datasets', ()) if isinstance(part, DomainPart)]
    return {part.domain: part.dataset for part in parts} or {'': dataset}


def left_out(dataset: object) -> dict[str, list[str]]:
    """Return the names of defective pairs that a data set leaves out, by domain or, without domains, under ''."""
    found = {
        name: [pair for leaf in parts_of(part) for pair in (getattr(leaf, 'metainfo', None) or {}).get('left_out', ())]
        for name, part in _by_domain(dataset).items()
    }
    return {name: pairs for name, pairs in found.items() if pairs}


def image_folders(dataset: object) -> dict[str, str]:
    """Return `image_folder` by domain or, without domains, under the name ''."""
    found = {name: image_folder(part) for name, part in _by_domain(dataset).items()}
    return {name: folder for name, folder in found.items() if folder}


def _replaced(
    parts: dict[str, BaseSegDataset], pipeline: Sequence[object], keep: Sequence[str]
) -> dict[str, BaseSegDataset]:
    """Return the domains' data sets with this pipeline; log which of them lose transforms of their own."""
    views = bool(pipeline) and isinstance(pipeline[-1], dict) and pipeline[-1].get('type') == 'TestTimeAug'
    found = {n: part if n in keep and not views else with_pipeline(part, pipeline) for n, part in parts.items()}
    for leaf in (leaf for part in found.values() for leaf in parts_of(part)):
        check_sizes(leaf.pipeline)
    if views:
        lost = [name for name in parts if name in keep]
    else:
        lost = [name for name, part in parts.items() if _steps(part) not in ([], _steps(found[name]))]
    if lost:
        cure = '' if views else f'; keep={lost} keeps them'
        what = f'MultiDomainDataset: pipeline replaces the own transforms of {", ".join(lost)}'
        print_log(what + cure, 'current', WARNING)
    return found


def _steps(dataset: object) -> list[str]:
    pipelines = [getattr(part, 'pipeline', None) for part in parts_of(dataset)]
    return [repr(step) for pipeline in pipelines for step in getattr(pipeline, 'transforms', ())]


@DATASETS.register_module(name=['MultiDomainDataset', 'DomainConcatDataset'])  # the second is the former name
class MultiDomainDataset(DomainsInOrder):
    """Segmentation data sets of several domains, one after the other; also registered as `DomainConcatDataset`.

    The domain's name is stored as `domain` in the meta information of every sample, for `DomainIoUMetric`, and in the
    batch, for `AdaBNHook`. The folder of each domain's images is in `metainfo['image_folders']`.

    Args:
        domains: Data sets, or their configs, by the name of their domain.
        only: Names of the domains to use; all by default. `--cfg-options test_dataloader.dataset.only=NAME` selects
            one.
        pipeline: Transforms that replace those of every domain; mmseg's tools write and read this key. Transforms with
            the attribute `of_the_domain`, such as `ImageCorruption`, stay.
        keep: Names of the domains whose own transforms `pipeline` does not replace. If `pipeline` ends with
            `TestTimeAug`, it replaces these too, since one test cannot mix samples with one view and samples with
            several.

    Raises:
        ValueError: There is no domain, `only` or `keep` holds an unknown name, or the data sets have different classes.
        TypeError: `pipeline` is given, but a data set has no pipeline.
    """

    def __init__(
        self,
        domains: Mapping[str, dict | BaseSegDataset],
        only: str | Sequence[str] | None = None,
        pipeline: Sequence[object] | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        known = known_domains(domains)
        for name in keep:
            if name not in known:
                raise ValueError(unknown('domain', name, known))
        parts = parts_by_domain(domains, only, DATASETS.build)
        if pipeline is not None:
            parts = _replaced(parts, pipeline, keep)
        super().__init__([DomainPart(name, part) for name, part in parts.items()])
        first = next(iter(parts.values()))
        self.metainfo = {**first.metainfo, 'domains': list(parts), 'known_domains': known}
        self.metainfo['image_folders'], self.metainfo['left_out'] = image_folders(self), left_out(self)
        # attributes that mmseg's confusion_matrix.py reads
        leaf = parts_of(first)[0]
        self.METAINFO = self.metainfo
        self.ignore_index = getattr(leaf, 'ignore_index', 255)
        self.reduce_zero_label = getattr(leaf, 'reduce_zero_label', False)

    def __getitem__(self, index: int) -> dict[str, object]:
        """Return a sample; if it cannot be read and `keep_going` is set, return another one in its place."""
        return item_or_stand_in(self, super().__getitem__, index)
