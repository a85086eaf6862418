"""Image sets of several domains with the same classes: PACS, Office-Home, ..."""

from __future__ import annotations

import itertools
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS, DATASETS
from PIL import Image
from timm.data import get_img_extensions
from torch.utils.data import Dataset, Sampler

from ..datafiles import decode_text, is_hidden
from ..errors import unknown
from ..runner.domains import DomainPart, DomainsInOrder, known_domains, parts_by_domain
from .data import ImageOptions, LabelledImages, read_image, readable

if TYPE_CHECKING:
    from typing_extensions import Unpack

SPLITS = ('train', 'crossval', 'test')
NOT_RELEASED = ('sketch/dog/n02103406_4068-1.png',)  # in PACS's lists, but not among its images


@DATASETS.register_module(name=['DomainFolders', 'PACS'])
class DomainFolders(LabelledImages):
    """Images in `root/<domain>/<class>/*`, as PACS is distributed (art_painting, cartoon, photo, sketch).

    The classes are those of all domains in `root`, sorted, so that training and test sets agree on the labels.

    Args:
        root: the folder of the domains.
        domains: the domains to use; None takes all of them.
        leave_out: the domains not to use.
        split: 'train', 'crossval' or 'test': only the images of the official lists, `<domain>_<split>_kfold.txt` in
            `root`, or in a folder `splits` in it or beside it; None takes all images.
        split_missing_ok: if there is no such list, take all images and log a warning instead of raising an error.
        holdout: instead of the lists: the share, between 0 and 1, of the images of each class and domain that is
            'crossval'; the rest is 'train'. File names decide, so that every process and every run makes the same
            split.
        **common: `transform`, `shift`; see `LabelledImages`. `domain` is one name for all images, which replaces the
            names of their folders, as for a shift of all of them.

    Raises:
        FileNotFoundError: no `root`, no image in a domain, no list of the split, or an image of a list is missing.
        ValueError: a domain or a split that does not exist, a list that is not a text file, a `holdout` that is not a
            share or leaves a part without images.
    """

    def __init__(
        self,
        root: str,
        domains: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        split: str | None = None,
        split_missing_ok: bool = False,
        holdout: float | None = None,
        **common: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**common)
        if not Path(root).is_dir():
            raise FileNotFoundError(f"no folder '{root}': `root` is the folder that holds <domain>/<class>/*.jpg")
        known = _folders(Path(root))
        if split is not None and split not in SPLITS:
            raise ValueError(unknown('split', split, SPLITS))
        if holdout is not None and (not 0 < holdout < 1 or split not in SPLITS[:2]):
            raise ValueError(
                f"DomainFolders: holdout is a share between 0 and 1 of split='crossval' beside split='train', got "
                f'holdout={holdout} and split={split!r}'
            )
        for name in (*(domains or ()), *leave_out):
            if name not in known:
                raise ValueError(unknown('domain', name, known))
        self.domains = [name for name in domains or known if name not in leave_out]
        self.classes = sorted({label for name in known for label in _folders(Path(root) / name)})
        self.samples: list[tuple[Path, int, str]] = []
        for domain in self.domains:
            found = list(self._find(Path(root) / domain, domain))
            if holdout is not None:
                found = _part(found, holdout, split == 'crossval', domain)
            elif split is not None:
                found = _of_split(found, Path(root), f'{domain}_{split}_kfold.txt', split_missing_ok)
            if not found:
                raise FileNotFoundError(f"no images in '{root}/{domain}/<class>/'")
            self.samples += found

    def _find(self, folder: Path, domain: str) -> Iterator[tuple[Path, int, str]]:
        extensions = get_img_extensions(as_set=True)
        for label, name in enumerate(self.classes or ()):
            paths = sorted((folder / name).glob('*')) if (folder / name).is_dir() else []
            shown = (path for path in paths if not is_hidden(path.name))
            yield from ((path, label, domain) for path in shown if path.suffix.lower() in extensions)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """One image as RGB, and its label."""
        path, label, _ = self.samples[index]
        return read_image(path, str(path)), label

    def domain_of(self, index: int) -> str:
        """Name of the domain folder of an image, or the one name that was given to all images."""
        return self.samples[index][2] if self.domain is None else self.domain

    def image_of(self, index: int) -> str:
        return str(self.samples[index][0])

    def __len__(self) -> int:
        return len(self.samples)


@DATASETS.register_module(name=['MultiDomainDataset', 'JoinedDataset'])  # the second is the former name
class MultiDomainDataset(DomainsInOrder):
    """Image sets of several domains, one after the other. Also registered as `JoinedDataset`.

    The domain's name is in every sample as `domain`, where `TopK` and `AdaBNHook` find it.

    Args:
        domains: Data sets, or their configs, by the name of their domain.
        only: Names of the domains to use; all by default. `--cfg-options test_dataloader.dataset.only=NAME` for one.
        datasets: Instead of `domains`, data sets that tell the domain of each image themselves, or tell none.

    Raises:
        ValueError: Neither `domains` nor `datasets`, or both; no domain, an unknown name in `only`, or data sets of
            different classes.
    """

    def __init__(
        self,
        domains: Mapping[str, dict | Dataset] | None = None,
        only: str | Sequence[str] | None = None,
        datasets: Sequence[dict | Dataset] | None = None,
    ) -> None:
        if (domains is None) == (datasets is None) or (datasets is not None and only is not None):
            raise ValueError('MultiDomainDataset: give domains=dict(NAME=...), and maybe only=, or datasets=[...]')
        if domains is None:
            super().__init__([DATASETS.build(part) if isinstance(part, dict) else part for part in datasets or ()])
            self.metainfo = getattr(self.datasets[0], 'metainfo', {})
            return
        parts = parts_by_domain(domains, only, DATASETS.build)
        super().__init__([DomainPart(name, part) for name, part in parts.items()])
        first = getattr(next(iter(parts.values())), 'metainfo', {})
        self.metainfo = {**first, 'domains': list(parts), 'known_domains': known_domains(domains)}

    def __getitem__(self, index: int) -> dict[str, object]:
        """A sample; in a test that keeps going, another one replaces it if it cannot be read."""
        return readable(self, super().__getitem__, index)


def _part(
    samples: list[tuple[Path, int, str]], share: float, held_out: bool, domain: str
) -> list[tuple[Path, int, str]]:
    """The held-out share of each class, or the rest."""
    kept = []
    for label in dict.fromkeys(label for _, label, _ in samples):
        own = sorted((s for s in samples if s[1] == label), key=lambda s: zlib.crc32(s[0].name.encode()))
        count = round(share * len(own))
        kept += own[:count] if held_out else own[count:]
    if samples and not kept:
        raise ValueError(
            f'DomainFolders: holdout={share} of {len(samples)} images of {domain} leaves a part without any'
        )
    return sorted(kept)


def _of_split(
    samples: list[tuple[Path, int, str]], root: Path, name: str, missing_ok: bool
) -> list[tuple[Path, int, str]]:
    """The samples in a list with lines such as 'photo/dog/056_0001.jpg 1'; names may contain spaces."""
    folders = (root, root / 'splits', root.parent / 'splits')
    file = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if file is None:
        text = f"no list '{name}' in {' or '.join(map(str, folders))}"
        if not missing_ok:
            raise FileNotFoundError(f'{text}; split=None takes all images')
        print_log(f'{text}: all {len(samples)} images of the domain are used', 'current', logging.WARNING)
        return samples
    present = {path.relative_to(root).as_posix(): (path, label, domain) for path, label, domain in samples}
    lines = [line.strip() for line in decode_text(file.read_bytes(), file).splitlines()]
    listed = [line if line in present else line.rsplit(maxsplit=1)[0] for line in lines if line]
    missing = [path for path in listed if path not in present and path not in NOT_RELEASED]
    if missing:
        raise FileNotFoundError(f"'{file}' has {len(missing)} images that '{root}' has not, such as '{missing[0]}'")
    return [present[path] for path in listed if path in present]


def _folders(root: Path) -> list[str]:
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and path.name != 'splits' and not is_hidden(path.name)
    )


def _chained(runs: Iterable[Iterable[int]]) -> Iterator[int]:
    return itertools.chain.from_iterable(runs)


@DATA_SAMPLERS.register_module()
class DomainBalancedSampler(Sampler):
    """Endless; takes one image of each domain in turn, so that every batch has the same number from each domain.

    A domain is shuffled again, independently of the others, when all its images have been used. For the balance, the
    batch_size must be a multiple of the number of domains. Processes take turns in rounds of `run` images per domain.

    Args:
        dataset: a `DomainFolders`.
        seed: the same on all processes.
        run: number of consecutive images of a domain; if it is the batch_size, every batch is of one domain.

    Raises:
        ValueError: `run` is below 1.
    """

    def __init__(self, dataset: DomainFolders, seed: int | None = None, run: int = 1) -> None:
        if run < 1:
            raise ValueError(f'DomainBalancedSampler: expected run >= 1, got {run}')
        self.run = run
        self.rank, self.world_size = get_dist_info()
        self.seed = sync_random_seed() if seed is None else seed
        self.groups = [
            torch.tensor([i for i, (*_, domain) in enumerate(dataset.samples) if domain == name])
            for name in dataset.domains
        ]
        self.size, self.start = len(dataset), 0

    def __iter__(self) -> Iterator[int]:
        streams = [self._shuffled(group, self.seed + k) for k, group in enumerate(self.groups)]
        runs = [zip(*[stream] * self.run, strict=True) for stream in streams]
        rounds = itertools.islice(map(_chained, zip(*runs, strict=True)), self.rank, None, self.world_size)
        return itertools.islice(itertools.chain.from_iterable(rounds), self.start, None)

    @staticmethod
    def _shuffled(group: torch.Tensor, seed: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from group[torch.randperm(len(group), generator=generator)].tolist()

    def skip(self, num_samples: int) -> None:
        """Starts after the first `num_samples` of this process; used on resume."""
        self.start = num_samples

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: the sampler never ends."""
