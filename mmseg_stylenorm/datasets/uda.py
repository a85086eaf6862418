"""Source and target images in one batch, for unsupervised domain adaptation."""

import torch
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from torch.utils.data import Dataset


@DATASETS.register_module()
class UDADataset(Dataset):
    """An item is an item of the source, with a random item of the target under the key `target`.

        dict(type='UDADataset', source=dict(type='GTA5Dataset', ...), target=dict(type='CityscapesDataset', ...))

    A batch of the source then contains a second batch: {'inputs', 'data_samples', 'target': {'inputs',
    'data_samples'}}. The two may differ in image size. The length is the source's. Target images are drawn with
    replacement from torch's generator, whose state `RNGStateHook` saves. Their pipeline needs no labels.

    Args:
        source: A data set with labels, or its config.
        target: A data set of which only the images are used, or its config.

    Raises:
        ValueError: The classes of the two differ.
    """

    def __init__(self, source: dict | BaseSegDataset, target: dict | BaseSegDataset) -> None:
        self.source, self.target = (DATASETS.build(d) if isinstance(d, dict) else d for d in (source, target))
        classes = [list(data.metainfo.get('classes') or ()) for data in (self.source, self.target)]
        if classes[0] != classes[1]:
            raise ValueError(f'UDADataset: the source has the classes {classes[0]} and the target {classes[1]}')

    @property
    def metainfo(self) -> dict[str, object]:
        """Meta information of the source."""
        return self.source.metainfo

    def full_init(self) -> None:
        """Lists the files of both if `lazy_init` postponed that."""
        for part in (self.source, self.target):
            part.full_init()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, object]:
        # adding the index makes processes whose generators are in the same state draw different images
        draw = (int(torch.randint(len(self.target), ())) + index) % len(self.target)
        return {**self.source[index], 'target': self.target[draw]}
