"""The table of protocols: what the field measures under shift, where the files are, and how the score is computed.

To add a protocol, add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..errors import unknown
from . import cells as find
from . import scores
from .images import Cell
from .labels import Groups, categories, objectnet, subset_groups

Counts = Mapping[str, Mapping[str, int]]  # cell -> 'total', 'top1', 'top5', ...


@dataclass(frozen=True)
class Protocol:
    """One row.

    Attributes:
        title: What the field calls it.
        layout: Where its files are below the root.
        paper: Authors, venue and arXiv number.
        cells: Function from the root to the parts, each of which has a score.
        scores: Function from the counts of all parts, and of the clean images or None, to the scores in percent.
        metrics: Names of the scores; those in `complete` need every part.
        complete: Scores that need all their parts, and for each the corruptions that these parts are of.
        size: Rows and columns of files that are left as they are; if None, files are resized and cropped as the
            network's configuration says.
        groups: Function from the root to the outputs of the network that stand for the classes; None if each class has
            one output.
        attack: Name of the attack on the images; see `attacks.ATTACKS`.
        note: What a reader of its numbers must know.
        folder: Name of its folder below a common root.
        outputs: Number of outputs that a network must have; None if that depends on the classes.
        textures: Whether an image has a texture as well as a class, and decisions for both are counted.
    """

    title: str
    layout: str
    paper: str
    cells: Callable[..., list[Cell]]
    scores: Callable[[Counts, Mapping[str, int] | None], dict[str, float]]
    metrics: tuple[str, ...] = ('top1', 'top5')
    complete: Mapping[str, tuple[str, ...]] | None = None
    size: tuple[int, int] | None = None
    groups: Callable[..., Groups] | None = None
    attack: str | None = None
    note: str = ''
    folder: str = ''
    outputs: int | None = None
    textures: bool = False

    @property
    def in_readers(self) -> bool:
        """Whether its images may also be in a tar file, or come from timm's readers: see `readers.place_of`."""
        return self.cells in (find.plain, find.imagenet_a, find.imagenet_r, find.corrupted)

    @property
    def takes(self) -> tuple[str, ...]:
        """Which of `Options.subset` and `Options.corruptions` its parts are chosen by."""
        by_name = self.cells in (find.corruptions, find.c_bar, find.any_corruptions, find.cifar_c, find.corrupted)
        by_number = self.cells in (
            find.plain, find.corruptions, find.c_bar, find.any_corruptions, find.filters, find.corrupted
        )  # fmt: skip
        return ('subset',) * by_number + ('corruptions',) * by_name


_HENDRYCKS = 'Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261'
_CLEAN = (
    'top1_clean_subset is that of the ImageNet validation images of the same 200 classes, where their folder is given'
)
_ON_IMAGES = '<class>/*, such as ImageNet val'
_CIFAR10_C = Protocol(
    'CIFAR-10-C',
    '<corruption>.npy and labels.npy',
    _HENDRYCKS,
    find.cifar_c,
    scores.cifar_c,
    metrics=('mean_error', 'top1', 'extra_mean_error'),
    complete={'mean_error': find.CORRUPTIONS},
    size=(32, 32),
    note='a plain mean of errors over 15 corruptions and 5 severities: there is no table of AlexNet for it',
    folder='cifar10-c',
)

PROTOCOLS: dict[str, Protocol] = {
    'imagenet': Protocol(
        'ImageNet validation',
        'val/<WordNet id>/*.JPEG, or the folders of the classes themselves',
        'Russakovsky et al., IJCV 2015, arXiv:1409.0575',
        find.plain,
        scores.accuracy,
        folder='imagenet',
    ),
    'imagenet-c': Protocol(
        'ImageNet-C',
        '<corruption>/<severity 1 to 5>/<WordNet id>/*.JPEG, 224 x 224',
        _HENDRYCKS,
        find.corruptions,
        scores.imagenet_c,
        metrics=('mCE', 'relative_mCE', 'mean_error', 'top1', 'extra_mean_error'),
        complete={'mCE': find.CORRUPTIONS, 'relative_mCE': find.CORRUPTIONS},
        size=(224, 224),
        note='mCE is relative to the errors of AlexNet, over 15 corruptions; the four extra ones have a mean of their '
        'own; relative_mCE needs the clean error',
        folder='imagenet-c',
    ),
    'imagenet-c-bar': Protocol(
        'ImageNet-C-bar',
        '<corruption>/<severity>/<WordNet id>/*.JPEG, 224 x 224',
        'Mintun, Kirillov, Xie, NeurIPS 2021, arXiv:2102.11273',
        find.c_bar,
        scores.mean_error,
        metrics=('mean_error', 'top1'),
        complete={'mean_error': tuple(find.C_BAR)},
        size=(224, 224),
        note='a plain mean of errors: there is no table of AlexNet for it',
        folder='imagenet-c-bar',
    ),
    'imagenet-3dcc': Protocol(
        'ImageNet-3DCC',
        '<corruption>/<severity 1 to 5>/<WordNet id>/*.JPEG, 224 x 224',
        'Kar et al., CVPR 2022, arXiv:2203.01441',
        find.any_corruptions,
        scores.mean_error,
        metrics=('mean_error', 'top1'),
        size=(224, 224),
        note='a plain mean of errors over the corruptions that are there',
        folder='imagenet-3dcc',
    ),
    'imagenet-a': Protocol(
        'ImageNet-A',
        '<WordNet id>/*.jpg, 200 classes',
        'Hendrycks et al., CVPR 2021, arXiv:1907.07174',
        find.imagenet_a,
        scores.subset,
        metrics=('top1', 'top1_clean_subset'),
        groups=lambda _: subset_groups('a'),
        outputs=1000,
        note=f'over the 200 classes, the other outputs left out; {_CLEAN}',
        folder='imagenet-a',
    ),
    'imagenet-r': Protocol(
        'ImageNet-R',
        '<WordNet id>/*.jpg, 200 classes',
        'Hendrycks et al., ICCV 2021, arXiv:2006.16241',
        find.imagenet_r,
        scores.subset,
        metrics=('top1', 'top1_clean_subset'),
        groups=lambda _: subset_groups('r'),
        outputs=1000,
        note=f'over the 200 classes, the other outputs left out; {_CLEAN}',
        folder='imagenet-r',
    ),
    'imagenet-v2': Protocol(
        'ImageNet-V2',
        '<0 to 999>/*.jpeg',
        'Recht et al., ICML 2019, arXiv:1902.10811',
        find.plain,
        scores.accuracy,
        note='folders are numbers of outputs, not of a sorted list',
        outputs=1000,
        folder='imagenet-v2',
    ),
    'imagenet-sketch': Protocol(
        'ImageNet-Sketch',
        '<WordNet id>/*.JPEG',
        'Wang et al., NeurIPS 2019, arXiv:1905.13549',
        find.plain,
        scores.accuracy,
        folder='imagenet-sketch',
    ),
    'stylized-imagenet': Protocol(
        'Stylized-ImageNet',
        'val/<WordNet id>/*, 224 x 224, made by each user from ImageNet and paintings',
        'Geirhos et al., ICLR 2019, arXiv:1811.12231',
        find.plain,
        scores.accuracy,
        size=(224, 224),
        folder='stylized-imagenet',
    ),
    'imagenet-instagram': Protocol(
        'ImageNet-Instagram',
        '<filter>/<WordNet id>/*',
        'Wu et al., Recognizing Instagram Filtered Images with Feature De-stylization, AAAI 2020, arXiv:1912.13000',
        find.filters,
        scores.mean_top1,
        metrics=('top1', 'mean_error'),
        note='over the filters that are there; imitations of the filters are another test',
        folder='imagenet-instagram',
    ),
    'objectnet': Protocol(
        'ObjectNet',
        'images/<folder>/*.png and mappings/, as downloaded',
        'Barbu et al., NeurIPS 2019',
        find.objectnet_images,
        scores.accuracy,
        groups=lambda root: objectnet(root)[0],
        outputs=1000,
        note='over the classes that ImageNet has, several outputs for one; the red border of one pixel is cut off',
        folder='objectnet',
    ),
    'cue-conflict': Protocol(
        'Cue conflict (shape bias)',
        '<shape>/<shape>N-<texture>M.png, 16 categories, 224 x 224',
        'Geirhos et al., ICLR 2019, arXiv:1811.12231',
        find.cue_conflict,
        scores.shape_bias,
        metrics=('shape_bias', 'shape_top1', 'texture_top1'),
        textures=True,
        size=(224, 224),
        groups=lambda _: categories(),
        outputs=1000,
        note='shape decisions among those for the shape or the texture; images whose two cues agree are left out',
        folder='cue-conflict',
    ),
    'cifar10-c': _CIFAR10_C,
    'cifar100-c': replace(_CIFAR10_C, title='CIFAR-100-C', folder='cifar100-c'),
    'fashion-mnist': Protocol(
        'Fashion-MNIST in other styles',
        't10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, gzipped or not',
        'Xiao et al., arXiv:1708.07747; the styles are of this package',
        find.fashion_mnist,
        scores.shifts,
        metrics=('top1', 'top1_shifted'),
        size=(28, 28),
        folder='fashion-mnist',
    ),
    'corrupted': Protocol(
        'Corrupted on the fly',
        f'{_ON_IMAGES}; any classes',
        _HENDRYCKS,
        find.corrupted,
        scores.mean_error,
        metrics=('mean_error', 'top1'),
        note='made from the images by imagecorruptions, with a seed for each image: another test than the published '
        'files, which are JPEGs of JPEGs',
        folder='imagenet',
    ),
    'fgsm': Protocol(
        'FGSM, 16/255, as in shape-texture debiased training',
        _ON_IMAGES,
        'Li et al., ICLR 2021, arXiv:2010.05981',
        find.plain,
        scores.accuracy,
        attack='fgsm',
        note='the loss is minus the logit of the class, in the form of the authors',
        folder='imagenet',
    ),
    'fgsm-ce': Protocol(
        'FGSM, 16/255, cross-entropy',
        _ON_IMAGES,
        'Goodfellow et al., ICLR 2015, arXiv:1412.6572',
        find.plain,
        scores.accuracy,
        attack='fgsm-ce',
        folder='imagenet',
    ),
    'pgd': Protocol(
        'PGD, 10 steps within 8/255',
        _ON_IMAGES,
        'Madry et al., ICLR 2018, arXiv:1706.06083',
        find.plain,
        scores.accuracy,
        attack='pgd',
        note='by foolbox, with a random start',
        folder='imagenet',
    ),
}


def list_protocols() -> list[str]:
    """Names of all protocols."""
    return list(PROTOCOLS)


def get_protocol(name: str) -> Protocol:
    """A row by its name.

    Raises:
        ValueError: There is no such protocol; the message names the nearest.
    """
    if name not in PROTOCOLS:
        raise ValueError(unknown('protocol', name, PROTOCOLS))
    return PROTOCOLS[name]
