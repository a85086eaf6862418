"""Where the images of each protocol are: functions from its folder to its parts, each of which has a score."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .classes import ClassImages
from .idx import find_idx, read_idx
from .images import Cell, File, Row, Sample, files_in, folders_in, stamp_of
from .labels import categories, objectnet, synsets
from .options import Options
from .readers import Source, StreamCell, is_tar
from .scores import ALEXNET, EXTRA
from .style_shifts import STYLE_SHIFTS, shift_image

CORRUPTIONS = tuple(ALEXNET)
SEVERITIES = ('1', '2', '3', '4', '5')
C_BAR = {  # Mintun et al., facebookresearch/augmentation-corruption
    'caustic_refraction': '2.35 3.2 4.9 6.6 9.15',
    'inverse_sparkles': '1.0 2.0 4.0 9.0 10.0',
    'sparkles': '1.0 2.0 3.0 5.0 6.0',
    'perlin_noise': '4.6 5.2 5.8 7.6 8.8',
    'blue_noise_sample': '0.8 1.6 2.4 4.0 5.6',
    'plasma_noise': '4.75 7.0 8.5 9.25 10.0',
    'checkerboard_cutout': '2.0 3.0 4.0 5.0 6.0',
    'cocentric_sine_waves': '3.0 5.0 8.0 9.0 10.0',
    'single_frequency_greyscale': '1.0 1.5 2.0 4.5 5.0',
    'brownish_noise': '1.0 2.0 3.0 4.0 5.0',
}


def limited(cell: Cell, limit: int | None) -> Cell:
    """The cell, reduced in place to at most `limit` images, spread evenly."""
    if limit is not None and limit < len(cell):
        if not cell.samples:
            raise ValueError(f'{cell.name} is read in order, and a limit takes images that are spread evenly')
        step = len(cell.samples) / limit
        cell.samples = [cell.samples[math.floor(i * step)] for i in range(limit)]
    return cell


def class_root(root: Path) -> Path:
    """The folder with the class folders: `root`, or `val`, `validation` or `test` in it, unless that is a class."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder '{root}'")
    inner = [
        root / name for name in ('val', 'validation', 'test') if (root / name).is_dir() and folders_in(root / name)
    ]
    return inner[0] if inner else root


def _classes_of(place: Path | Source) -> Path | Source:
    return place if isinstance(place, Source) or is_tar(place) else class_root(place)


def plain(root: Path | Source, options: Options) -> list[Cell]:
    """One part: all images."""
    if not isinstance(root, Source) or root.kind != 'wds':
        return [ClassImages.read(_classes_of(root), only=options.numbers()).cell('all')]
    if options.subset is not None:
        raise ValueError(f"'{root}' is read in order: a subset needs a folder or a tar file")
    return [StreamCell.read(root, 'all')]


def _subset(root: Path | Source, names: Sequence[str]) -> list[Cell]:
    if isinstance(root, Source) and root.kind == 'wds':
        raise ValueError(f"'{root}' has no names of classes, by which the {len(names)} classes are found")
    found = ClassImages.read(root, {name: i for i, name in enumerate(names)})
    return [Cell('all', found.samples)]


def imagenet_a(root: Path | Source, options: Options) -> list[Cell]:
    return _subset(root, synsets('a'))


def imagenet_r(root: Path | Source, options: Options) -> list[Cell]:
    return _subset(root, synsets('r'))


def clean_subset(root: Path | Source, names: Sequence[str]) -> Cell:
    """The ImageNet validation images of some classes."""
    (cell,) = _subset(_classes_of(root), names)
    return cell


def corruptions(root: Path, options: Options) -> list[Cell]:
    """ImageNet-C: the corruptions in `root`, or one level below it, as in the five archives of the release."""
    names = (*CORRUPTIONS, *EXTRA)
    places = {name: folder for folder in _with_groups(root) for name in folders_in(folder) if name in names}
    return [
        ClassImages.read(places[name] / name / severity, only=options.numbers()).cell(f'{name}/{severity}')
        for name in options.chosen(names)
        if name in places
        for severity in SEVERITIES
        if (places[name] / name / severity).is_dir()
    ] or _nothing(root, 'a corruption such as gaussian_noise/1')


def _with_groups(root: Path) -> list[Path]:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder '{root}'")
    groups = [root / name for name in ('blur', 'digital', 'noise', 'weather', 'extra') if (root / name).is_dir()]
    return [*groups, root]


def _nothing(root: Path, what: str) -> list[Cell]:
    raise FileNotFoundError(f"'{root}' has no folder of {what}")


def c_bar(root: Path, options: Options) -> list[Cell]:
    """The ten corruptions of the release, each at its five strengths."""
    _with_groups(root)
    return [
        ClassImages.read(root / name / strength, only=options.numbers()).cell(f'{name}/{strength}')
        for name in options.chosen(tuple(C_BAR))
        for strength in C_BAR[name].split()
        if (root / name / strength).is_dir()
    ] or _nothing(root, 'a corruption such as caustic_refraction/2.35')


def any_corruptions(root: Path, options: Options) -> list[Cell]:
    """Every corruption and severity in `root`."""
    _with_groups(root)
    return [
        ClassImages.read(root / name / severity, only=options.numbers()).cell(f'{name}/{severity}')
        for name in options.chosen(folders_in(root))
        for severity in folders_in(root / name)
        if folders_in(root / name / severity)
    ] or _nothing(root, '<corruption>/<severity>/<class>')


def filters(root: Path, options: Options) -> list[Cell]:
    """Every filter in `root`."""
    _with_groups(root)
    numbers = options.numbers()
    found = [ClassImages.read(root / name, only=numbers).cell(name) for name in folders_in(root)]
    return found or _nothing(root, 'a filter')


def objectnet_images(root: Path, options: Options) -> list[Cell]:
    """The images of the classes that ImageNet also has, without their border."""
    _, labels = objectnet(root)
    return [Cell('all', ClassImages.read(root / 'images', labels, border=1).samples)]


def cue_conflict(root: Path, options: Options) -> list[Cell]:
    """Images whose shape and texture belong to different categories.

    Raises:
        ValueError: The name of a file does not tell both categories.
    """
    names, samples = categories().names, []
    for folder in folders_in(root) if root.is_dir() else ():
        for path in files_in(root / folder):
            found = re.fullmatch(r'([a-z]+)\d+-([a-z]+)\d+', path.stem)
            if not found or found[1] not in names or found[2] not in names:
                raise ValueError(f"'{path}' is no '<shape>N-<texture>M.png' of {', '.join(names)}")
            if found[1] != found[2]:
                numbers = names.index(found[1]), names.index(found[2])
                samples.append(Sample(f'{folder}/{path.name}', File(path), *numbers))
    if not samples:
        raise FileNotFoundError(f"no images such as 'cat/cat1-clock1.png' in '{root}'")
    return [Cell('all', samples)]


def cifar_c(root: Path, options: Options) -> list[Cell]:
    """The arrays of a release, severity by severity.

    Raises:
        FileNotFoundError: No labels, or no corruption.
        ValueError: An array does not have the shape that follows from the labels.
    """
    names = (*CORRUPTIONS, *EXTRA)
    if not (root / 'labels.npy').is_file():
        raise FileNotFoundError(f"no 'labels.npy' in '{root}'")
    labels = np.load(root / 'labels.npy', allow_pickle=False)
    found = []
    for name in options.chosen(names):
        file = root / f'{name}.npy'
        if not file.is_file():
            continue
        array = np.load(file, mmap_mode='r', allow_pickle=False)
        if array.shape != (len(labels), 32, 32, 3) or len(array) % 5:
            raise ValueError(f"'{file}' holds {array.shape}, expected ({len(labels)}, 32, 32, 3): five severities")
        count, stamp = len(array) // 5, stamp_of(file)
        for s, severity in enumerate(SEVERITIES):
            rows = range(s * count, (s + 1) * count)
            samples = [Sample(f'{name}.npy[{i}]', Row(array, i, stamp), int(labels[i])) for i in rows]
            found.append(Cell(f'{name}/{severity}', samples))
    return found or _nothing(root, 'arrays such as gaussian_noise.npy')


@dataclass(frozen=True)
class _Shift:
    name: str

    def __call__(self, image: Tensor, index: int) -> Tensor:
        return shift_image(image, self.name, seed=index)


def fashion_mnist(root: Path, options: Options) -> list[Cell]:
    """The test images, clean and in other styles."""
    files = [find_idx(str(root), f't10k-{part}') for part in ('images-idx3-ubyte', 'labels-idx1-ubyte')]
    (images, labels), stamp = map(read_idx, files), [stamp_of(file) for file in files]
    samples = [Sample(f'number {i}', Row(images, i, stamp), int(label)) for i, label in enumerate(labels)]
    return [Cell('clean', list(samples)), *(Cell(s, list(samples), change=_Shift(s)) for s in STYLE_SHIFTS)]


_SEEDED = ('impulse_noise', 'glass_blur')  # the corruptions that do not draw from numpy's global generator


@dataclass(frozen=True)
class Corrupt:
    """A corruption of imagecorruptions, with a seed for each image."""

    name: str
    severity: int
    seed: int

    def __call__(self, image: Tensor, index: int) -> Tensor:
        from imagecorruptions import corrupt

        height, width = image.shape[1:]
        if min(height, width) < 32:
            raise ValueError(f'corruptions on the fly need images of 32 x 32 pixels at least, not {height} x {width}')
        array, seeds = image.permute(1, 2, 0).numpy(), [self.seed, index, self.severity]
        own = {'seed': int(np.random.SeedSequence(seeds).generate_state(1)[0])} if self.name in _SEEDED else {}
        state = np.random.get_state()  # noqa: NPY002 (what imagecorruptions draws from)
        try:
            np.random.seed(seeds)  # noqa: NPY002
            array = corrupt(array, corruption_name=self.name, severity=self.severity, **own)
        finally:
            np.random.set_state(state)  # noqa: NPY002
        return torch.from_numpy(np.array(array)).permute(2, 0, 1)


def corrupted(root: Path | Source, options: Options) -> list[Cell]:
    """The images of a folder with each corruption at each severity, added after resizing for the network."""
    try:
        from imagecorruptions import get_corruption_names
    except ImportError:
        raise ImportError('corruptions on the fly need imagecorruptions: pip install imagecorruptions-imaug') from None
    wanted = options.chosen(get_corruption_names('all'))
    (whole,) = plain(root, options)
    if not whole.samples:
        raise ValueError(f"'{root}' is read in order, and each image is corrupted by a seed of its own")
    return [
        Cell(f'{name}/{s}', list(whole.samples), whole.folders, Corrupt(name, int(s), options.seed))
        for name in wanted
        for s in SEVERITIES
    ]


def missing(images: Mapping[str, int], all_of: Sequence[str]) -> list[str]:
    """The parts '<corruption>/<severity>' that are missing, or have fewer images than others."""
    found = {name: [part for part in images if part.partition('/')[0] == name] for name in all_of}
    most = max((images[part] for parts in found.values() for part in parts), default=0)
    return [
        f'{name}/{{1..5}}' if not parts else f'{name} ({5 - len(parts)} of 5 severities)'
        for name, parts in found.items()
        if len(parts) < 5
    ] + [
        f'{part} ({most - images[part]} of {most} images)'
        for parts in found.values()
        for part in parts
        if images[part] < most
    ]
