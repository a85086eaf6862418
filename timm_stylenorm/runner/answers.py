"""What an mmengine model predicts for the images of a data set, for `evaluation.diagnose`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..errors import unknown
from .loaders import Batch, domains, same_size

Answer = tuple[Tensor, Tensor | None]


def answers_of(model: BaseModel) -> Callable[[Batch], list[Answer]]:
    """The function from a batch of its loader to the logits (K,) or (K, H, W) and the label, or None, of each image.

    Raises:
        ValueError: At the first batch: the model is neither a classifier of this package nor a segmentor.
    """

    def predict(batch: Batch) -> list[Answer]:
        return [_answer(sample) for part in same_size(batch) for sample in model.test_step(dict(part))]

    return predict


def _answer(sample: Any) -> Answer:
    if isinstance(sample, Mapping) and 'scores' in sample:
        target = sample.get('target')
        return sample['scores'].log(), None if target is None else torch.tensor(target)
    if 'seg_logits' not in sample:
        raise ValueError(f'expected a classifier or a segmentor, got predictions {type(sample).__name__}')
    logits = sample.seg_logits.data
    if len(logits) == 1:
        raise ValueError('a segmentor with one output for two classes has no logits of classes to compare')
    return logits, sample.gt_sem_seg.data.squeeze(0) if 'gt_sem_seg' in sample else None


def domain_loader(loader: DataLoader, domain: str | None, limit: int | None) -> DataLoader:
    """A data loader of the images of one domain, in their order.

    Args:
        loader: A data loader of a test.
        domain: Name of the domain; None if the data set has only one.
        limit: Maximum number of images, spread evenly.

    Raises:
        ValueError: There are several domains and no name is given, or the name is unknown.
    """
    own = domains(loader.dataset)
    known = [name for name in dict.fromkeys(own) if name is not None]
    if domain is None and len(known) > 1:
        raise ValueError(f'the data set has {len(known)} domains; name one of {", ".join(known)}')
    if domain is not None and not known:
        raise ValueError(f'the data set names no domains, and {domain!r} was asked for; a folder or CONFIG.py has one')
    if domain is not None and domain not in known:
        raise ValueError(unknown('domain', domain, known))
    indices = [index for index, name in enumerate(own) if domain is None or name == domain]
    if limit is not None and limit < len(indices):
        indices = [indices[i * len(indices) // limit] for i in range(limit)]
    return DataLoader(
        Subset(loader.dataset, indices),
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
    )
