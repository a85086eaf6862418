"""Source and target images in one batch, for unsupervised domain adaptation."""

import torch
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from torch.utils.data import Dataset


@DATASETS.register_module()
class UDADataset(Dataset):
    """An item is one of the source's with a random one of the target's under the key `target`.

        dict(type='UDADataset', source=dict(type='GTA5Dataset', ...), target=dict(type='CityscapesDataset', ...))

    A batch is then that of the source, with a second one in it: {'inputs', 'data_samples', 'target': {'inputs',
    'data_samples'}}. The two may have different sizes. Its length is the source's. Target images are drawn with
    replacement, from torch's generator, which `RNGStateHook` saves. Their pipeline needs no labels.

    Args:
        source: Data set with labels, or its config.
        target: Data set whose images alone are used, or its config.

    Raises:
        ValueError: The two differ in their classes.
    """

    def __init__(self, source: dict | BaseSegDataset, target: dict | BaseSegDataset) -> None:
        self.source, self.target = (DATASETS.build(d) if isinstance(d, dict) else d for d in (source, target))
        classes = [list(data.metainfo.get('classes') or ()) for data in (self.source, self.target)]
        if classes[0] != classes[1]:
            raise ValueError(f'UDADataset: the source has the classes {classes[0]} and the target {classes[1]}')

    @property
    def metainfo(self) -> dict[str, object]:
        """The source's."""
        return self.source.metainfo

    def full_init(self) -> None:
        """Lists the files of both, where that was put off by `lazy_init`."""
        for part in (self.source, self.target):
            part.full_init()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, object]:
        # the index goes in, too: processes whose generators are in the same state have different ones
        draw = (int(torch.randint(len(self.target), ())) + index) % len(self.target)
        return {**self.source[index], 'target': self.target[draw]}
