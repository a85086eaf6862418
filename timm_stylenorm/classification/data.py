"""timm's and torchvision's image sets as data sets of mmengine's Runner.

Every data set here returns dicts: `inputs`, a uint8 tensor (3, H, W); `targets`, the label; and `domain`, a name, if
one was given. Images stay uint8 until `ClsPreprocessor` normalises them on the device. Loaders need
`collate_fn=dict(type='default_collate')`.

The key `transform` takes the arguments of `timm.data.create_transform` as a dict, or a list of torchvision transforms:

    transform=dict(input_size=224, is_training=True, color_jitter=None)
    transform=[dict(type='RandomCrop', size=32, padding=4), dict(type='RandomHorizontalFlip')]

`AugSplits`, at the end of such a list, returns several views of each image: `inputs` (splits, 3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from PIL import Image
from timm.data import create_dataset
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..datafiles import UNREADABLE, as_rgb, drop_hidden
from ..errors import unknown
from ..evaluation.readers import PACKAGES, check_installed
from ..evaluation.style_shifts import STYLE_SHIFTS, shift_image
from ..runner.stand_ins import KeepsGoing, item_or_stand_in
from .transforms import build_transform

if TYPE_CHECKING:
    from mmengine.runner import Runner
    from typing_extensions import Unpack

SPLITS = (('train', 'training'), ('val', 'valid', 'validation', 'eval', 'evaluation'), ('test', 'testing'))


class ImageOptions(TypedDict, total=False):
    """The arguments of `LabelledImages`."""

    transform: dict | Sequence[dict] | None
    domain: str | None
    shift: str | None


class LabelledImages(Dataset):
    """Base of the data sets with random access; a subclass defines `load(index) -> (PIL image, label)` and `__len__`.

    Args:
        transform: see the module's docstring.
        domain: name of the domain of all images; `TopK` then reports it separately.
        shift: one of `STYLE_SHIFTS`, applied after `transform`, for a test set in another style.
    """

    def __init__(
        self,
        transform: dict | Sequence[dict] | None = None,
        domain: str | None = None,
        shift: str | None = None,
    ) -> None:
        if shift is not None and shift not in STYLE_SHIFTS:
            raise ValueError(unknown('style shift', shift, STYLE_SHIFTS))
        self.transform = build_transform(transform)
        self.domain, self.shift = domain, shift
        self.classes: list[str] | None = None
        self.keep_going = False  # see `readable`

    @property
    def metainfo(self) -> dict:
        """What mmengine passes to metrics and checkpoints."""
        return dict(classes=self.classes)

    def load(self, index: int) -> tuple[Image.Image, int]:
        raise NotImplementedError

    def domain_of(self, index: int) -> str | None:
        """Name of the domain of image `index`."""
        return self.domain

    def image_of(self, index: int) -> str:
        """The path of an image, or its number if it has no path."""
        return f'number {index}'

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, object]:
        """A sample; in a test that keeps going, another one replaces it if it cannot be read."""
        return readable(self, self._sample, index)

    def _sample(self, index: int) -> dict[str, object]:
        image, target = self.load(index)
        inputs = self.transform(image)
        if self.shift is not None:
            if inputs.dim() == 4:
                raise ValueError('AugSplits is for training, and `shift` for tests: use one of the two')
            inputs = shift_image(inputs, self.shift, seed=index)
        return _sample(inputs, target, self.domain_of(index))


def readable(dataset: KeepsGoing, get: Callable[[int], dict], index: int) -> dict[str, object]:
    """`item_or_stand_in` for images. In a test that keeps going, each sample has the key `unread`: the image that it
    replaces and the reason, as two strings that a collate function accepts. In an ordinary sample both are empty."""
    item = item_or_stand_in(dataset, get, index, _mark, (OSError,))
    return {'unread': ('', ''), **item} if dataset.keep_going else item


def _mark(item: dict, image: str, reason: str) -> None:
    item['unread'] = image, reason


def _sample(inputs: Tensor, target: int, domain: str | None) -> dict[str, object]:
    sample = dict(inputs=inputs, targets=target)
    return sample if domain is None else dict(sample, domain=domain)


def read_image(source: str | Path | BinaryIO, name: str) -> Image.Image:
    """An RGB image from a file or file object.

    Raises:
        OSError: naming the file; timm itself would log a warning and return another image instead.
    """
    try:
        with Image.open(source) as image:
            return as_rgb(image)
    except UNREADABLE as error:
        raise OSError(f"cannot read image '{name}': {error}. Restore the file, or take it out of the set") from error


@DATASETS.register_module()
class FolderImages(LabelledImages):
    """Images without labels: samples have `inputs` alone.

    Args:
        files: Their paths.
        **common: See `LabelledImages`.
    """

    def __init__(self, files: Sequence[str], **common: Unpack[ImageOptions]) -> None:
        super().__init__(**common)
        self.files = list(files)

    def load(self, index: int) -> tuple[Image.Image, int]:
        return read_image(self.files[index], self.files[index]), -1

    def __len__(self) -> int:
        return len(self.files)

    def image_of(self, index: int) -> str:
        return self.files[index]

    def _sample(self, index: int) -> dict[str, object]:
        return {key: value for key, value in super()._sample(index).items() if key != 'targets'}


class TimmImages(LabelledImages):
    """A data set with random access made by `timm.data.create_dataset`; `timm_dataset` returns it."""

    def __init__(self, dataset: Dataset, **common: Unpack[ImageOptions]) -> None:
        super().__init__(**common)
        self.dataset: Any = dataset
        self.reader = getattr(dataset, 'reader', None)
        names: dict[str, int] = getattr(self.reader or dataset, 'class_to_idx', None) or {}
        self.classes = sorted(names, key=lambda name: names[name]) or None

    def load(self, index: int) -> tuple[Image.Image, int]:
        """The image as RGB, and its label, or -1 if it has none."""
        if self.reader is not None:
            source, target, *_ = self.reader[index]
            name = str(getattr(source, 'name', f'number {index}'))
            with source:
                return read_image(source, name), -1 if target is None else target
        if hasattr(self.dataset, 'samples'):  # torchvision's folders
            path, target = self.dataset.samples[index]
            return read_image(path, path), target
        image, target = self.dataset[index]
        return as_rgb(image), target

    def image_of(self, index: int) -> str:
        """The path of an image, in an archive the path within it; or its number if it has no path."""
        if self.reader is not None:
            return self.reader.filename(index, absolute=True) or super().image_of(index)
        return self.dataset.samples[index][0] if hasattr(self.dataset, 'samples') else super().image_of(index)

    def __len__(self) -> int:
        return len(self.dataset)


class TimmStream(IterableDataset):
    """A data set that is read in order (`wds/`, `tfds/`, `hfids/`); its loader needs `sampler=None`.

    timm's readers split it over processes and workers themselves.
    """

    def __init__(self, dataset: IterableDataset, transform: dict | Sequence[dict] | None, domain: str | None) -> None:
        self.dataset: Any = dataset
        self.domain, self.transform = domain, build_transform(transform)

    def __iter__(self) -> Iterator[dict[str, object]]:
        worker = get_worker_info()
        if worker is not None and hasattr(self.dataset, 'set_loader_cfg'):
            self.dataset.set_loader_cfg(num_workers=worker.num_workers)
        for image, target in self.dataset:
            yield _sample(self.transform(image), target, self.domain)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Changes the order with each epoch; `StreamEpochHook` calls it."""
        self.dataset.set_epoch(epoch)


@HOOKS.register_module()
class StreamEpochHook(Hook):
    """Tells a `TimmStream` which epoch starts; mmengine tells samplers only, and a stream has none."""

    def before_train_epoch(self, runner: Runner) -> None:
        """Passes the epoch on."""
        dataset = runner.train_dataloader.dataset
        if isinstance(dataset, TimmStream):
            dataset.set_epoch(runner.epoch)


@DATASETS.register_module(name='TimmDataset')
def timm_dataset(
    name: str = '',
    root: str | None = None,
    split: str = 'train',
    transform: dict | Sequence[dict] | None = None,
    domain: str | None = None,
    shift: str | None = None,
    **kwargs: Any,
) -> Dataset:
    """A data set that `timm.data.create_dataset` knows; registered as `TimmDataset`.

    Args:
        name: '' for folders of classes (or a .tar of them), `torch/cifar100`, `torch/image_folder`, `hfds/<name>`,
            `hfids/<name>`, `wds/<name>`, `tfds/<name>`.
        root: its folder.
        split: its split; for folders, the sub-folder (`val` and `validation` mean the same).
        transform: see the module's docstring.
        domain: name of the domain of all images; see `LabelledImages`.
        shift: another style for all images; see `LabelledImages`.
        **kwargs: passed to `create_dataset` (`class_map`, `download`, `input_key`, `num_samples`, ...; for streams also
            `is_training=True`, which shuffles, and `batch_size`).

    Raises:
        ImportError: the package that reads this kind is not installed.
        FileNotFoundError: `root`, or the split's folder in it, does not exist.
    """
    prefix = _kind(name)
    if prefix == '' or name.lower() in ('torch/image_folder', 'torch/folder'):
        root, kwargs = split_folder(root, split), {**kwargs, 'search_split': False}
    elif prefix == 'torch' and not kwargs.get('download') and not (root and Path(root).is_dir()):
        raise FileNotFoundError(f"data set '{name}': no folder '{root}'; correct `root`, or set download=True")
    dataset = create_dataset(name, root=root, split=split, **kwargs)
    if prefix == '' or hasattr(dataset, 'samples'):
        drop_hidden(getattr(dataset, 'reader', dataset), str(root), renumber=not kwargs.get('class_map'))
    if isinstance(dataset, IterableDataset):
        if shift is not None:
            raise ValueError(f"data set '{name}' is read in order: `shift` needs one with random access")
        return TimmStream(dataset, transform, domain)
    return TimmImages(dataset, transform=transform, domain=domain, shift=shift)


def _kind(name: str) -> str:
    """'hfds' for 'hfds/food101', '' for a folder; raises an error if nothing here can read the kind."""
    prefix = name.partition('/')[0].lower() if '/' in name else ''
    check_installed(prefix, name)
    if prefix not in ('', 'torch', *PACKAGES):
        raise ValueError(unknown('kind of data set', f'{prefix}/', [f'{kind}/' for kind in ('torch', *PACKAGES)]))
    return prefix


def split_folder(root: str | None, split: str) -> str:
    """The sub-folder of `root` for `split`, or `root` itself if it has no sub-folders for splits.

    Raises:
        FileNotFoundError: `root` does not exist or has only folders for other splits (timm would read all as one set).
    """
    if not root or not Path(root).exists():
        raise FileNotFoundError(f"no image folder '{root}': `root` is the folder with train/<class>/*.jpg, val/...")
    names = next((names for names in SPLITS if split in names), ())
    for candidate in (split, *names):
        if (Path(root) / candidate).is_dir():
            return str(Path(root) / candidate)
    others = [other for names in SPLITS for other in names if (Path(root) / other).is_dir()]
    if others:
        raise FileNotFoundError(f"'{root}' has no folder for split '{split}', only {', '.join(others)}")
    return root
