"""Which outputs of a network stand for which class of a test set."""

from __future__ import annotations

import json
import pkgutil
import re
import warnings
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch
from timm.data import ImageNetInfo
from timm.utils.misc import natural_key
from torch import Tensor

from ..errors import StyleNormWarning

# Of 1000 outputs, those for each of the 16 categories of the cue conflict test: Geirhos et al., ICLR 2019, as in
# bethgelab/model-vs-human (helper/human_categories.py)
_CATEGORIES = {
    'airplane': '404',
    'bear': '294-297',
    'bicycle': '444 671',
    'bird': '8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145',
    'boat': '472 554 625 814 914',
    'bottle': '440 720 737 898-899 901 907',
    'car': '436 511 817',
    'cat': '281-286',
    'chair': '423 559 765 857',
    'clock': '409 530 892',
    'dog': '152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268',
    'elephant': '385-386',
    'keyboard': '508 878',
    'knife': '499',
    'oven': '766',
    'truck': '555 569 656 675 717 734 864 867',
}


@dataclass(frozen=True)
class Groups:
    """Outputs that stand for the classes of a test set.

    Attributes:
        names: Names of the classes.
        outputs: The outputs of each class.
        mean: Whether the score of a class is the mean probability of its outputs; if not, it is their largest logit.
    """

    names: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]
    mean: bool = False

    def scores(self, logits: Tensor) -> Tensor:
        """(N, K) logits of a network -> (N, classes); outputs that belong to no class are ignored."""
        values = logits.softmax(1) if self.mean else logits
        return torch.stack([_joined(values[:, list(group)], self.mean) for group in self.outputs], 1)


def _joined(values: Tensor, mean: bool) -> Tensor:
    return values.mean(1) if mean else values.amax(1)


@cache
def synsets(subset: str = '') -> tuple[str, ...]:
    """timm's WordNet ids of ImageNet in the order of a network's outputs, or of ImageNet-A ('a') or -R ('r')."""
    if not subset:
        return tuple(ImageNetInfo('imagenet-1k').label_names())
    content = pkgutil.get_data('timm.data', f'_info/imagenet_{subset}_synsets.txt')
    if content is None:
        raise FileNotFoundError(f'timm has no list of the classes of ImageNet-{subset.upper()}')
    return tuple(content.decode().split())


def subset_groups(subset: str) -> Groups:
    """The 200 classes of ImageNet-A or -R."""
    names, index = synsets(subset), {name: i for i, name in enumerate(synsets())}
    return Groups(names, tuple((index[name],) for name in names))


def categories() -> Groups:
    """The 16 categories of the cue conflict test; the score of each is the mean probability of its classes."""
    return Groups(tuple(_CATEGORIES), tuple(_numbers(text) for text in _CATEGORIES.values()), mean=True)


def _numbers(text: str) -> tuple[int, ...]:
    """'294-297 404' -> 294, 295, 296, 297, 404."""
    ends = [part.split('-') for part in text.split()]
    return tuple(i for end in ends for i in range(int(end[0]), int(end[-1]) + 1))


@lru_cache(maxsize=8)  # called for each batch
def folder_indices(folders: tuple[str, ...], outputs: int, root: object) -> tuple[int, ...]:
    """Names of class folders -> outputs of a network.

    A WordNet id stands for its position among the 1000 of ImageNet, and a number for that output, as in ImageNet-V2.
    Other names stand for the outputs in the order given, one for each output: the order of timm's reader of training
    folders, which puts 'class2' before 'class10'.

    Raises:
        ValueError: The names are none of these.
    """
    known = {name: i for i, name in enumerate(synsets())}
    if outputs == len(known) and all(name in known for name in folders):
        return tuple(known[name] for name in folders)
    if all(re.fullmatch(r'\d+', name) for name in folders) and max(map(int, folders)) < outputs:
        return tuple(int(name) for name in folders)
    if len(folders) == outputs:
        if list(folders) == sorted(folders, key=natural_key) != sorted(folders):
            text = f"{root}: classes are numbered as by timm, '{folders[0]}', ..., '{folders[-1]}'; torchvision's "
            warnings.warn(
                f"{text}ImageFolder sorts '10' before '2', and capitals first", StyleNormWarning, stacklevel=2
            )
        return tuple(range(outputs))
    raise ValueError(
        f"'{root}' has {len(folders)} folders of classes, such as '{folders[0]}', and the network has {outputs} "
        'outputs: folders are named by WordNet ids (n01440764) or numbers, or there is one for each output'
    )


def objectnet(root: Path) -> tuple[Groups, dict[str, int]]:
    """ObjectNet's classes that ImageNet also has, and folder -> class, from the tables in its download.

    Raises:
        FileNotFoundError: A table is missing.
    """
    names = (
        'folder_to_objectnet_label.json', 'objectnet_to_imagenet_1k.json', 'pytorch_to_imagenet_2012_id.json',
        'imagenet_to_label_2012_v2',
    )  # fmt: skip
    for name in names:
        if not (root / 'mappings' / name).is_file():
            raise FileNotFoundError(f"no '{root / 'mappings' / name}': ObjectNet's download has it, beside images/")
    *tables, text = ((root / 'mappings' / name).read_text('utf-8') for name in names)
    folders, classes, ids = (json.loads(table) for table in tables)
    lines = [line.strip() for line in text.splitlines()]
    outputs = {int(line): int(output) for output, line in ids.items()}
    found = {}
    for label, descriptions in classes.items():
        found[label] = tuple(sorted(outputs[lines.index(text.strip())] for text in descriptions.split(';')))
    groups = Groups(tuple(found), tuple(found.values()))
    return groups, {folder: groups.names.index(label) for folder, label in folders.items() if label in found}
