"""Batches of mmengine's loaders outside training: other orders, one domain, one size."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.dataset import Compose
from mmengine.dist import get_rank, get_world_size
from mmengine.model import BaseModel
from mmengine.registry import DATASETS
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset

LEAST = 8  # images in a batch; segmentation test loaders have 1, with which most networks get worse, not better

Batch = Mapping[str, Tensor | Sequence]  # as a loader returns it: each entry has one item per image


@DATASETS.register_module()
class UnlabelledImages(Dataset):
    """Images without labels, through the transforms of a config.

    Args:
        files: Their paths.
        pipeline: Transforms of a data set with labels; steps of the type `LoadAnnotations` are left out.
    """

    def __init__(self, files: Sequence[str], pipeline: Sequence[Mapping[str, object]]) -> None:
        self.files = list(files)
        self.pipeline = Compose([step for step in pipeline if step['type'] != 'LoadAnnotations'])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        return self.pipeline({'img_path': self.files[index]})


def domains(dataset: Any) -> list[str | None]:
    """The domain of every image, as far as the data set tells it without loading them (`domain_of`)."""
    if isinstance(dataset, ConcatDataset):
        return [domain for part in dataset.datasets for domain in domains(part)]
    if hasattr(dataset, 'domain_of'):
        return [dataset.domain_of(index) for index in range(len(dataset))]
    return [None] * len(dataset)


def target_loader(loader: DataLoader, batch_size: int | None = None, domain: str | None = None) -> DataLoader:
    """A new data loader of the same images, in a random order that is always the same.

    The given loader is not used itself, since it may be in the middle of its run and may pad its last batch.

    Args:
        loader: As the Runner builds it.
        batch_size: Number of images in a batch; None takes the loader's, but at least 8.
        domain: Use only images of this domain, all of them in each process. If None, each process has its share.
    """
    order = torch.Generator().manual_seed(0)
    alike = partial(
        DataLoader,
        loader.dataset,
        batch_size=batch_size or max(loader.batch_size or 1, LEAST),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        pin_memory=loader.pin_memory,
        generator=order,
    )
    if isinstance(loader.dataset, IterableDataset):
        return alike()
    indices = torch.randperm(len(loader.dataset), generator=order).tolist()  # type: ignore[arg-type]
    if domain is None:
        return alike(sampler=indices[get_rank() :: get_world_size()])
    own = domains(loader.dataset)
    return alike(sampler=[index for index in indices if own[index] == domain])


def with_pipeline(dataset: Any, pipeline: Sequence[object]) -> Any:
    """A copy of a data set, or of a wrapper of data sets, with other transforms (or configs of transforms).

    Its own transforms with the attribute `of_the_domain` are kept, after the first new one, which loads the image.

    Raises:
        TypeError: A data set has no pipeline.
    """
    dataset = copy.copy(dataset)
    if hasattr(dataset, 'pipeline'):
        own = [step for step in dataset.pipeline.transforms if getattr(step, 'of_the_domain', False)]
        dataset.pipeline = Compose([*pipeline[:1], *own, *pipeline[1:]])
    elif hasattr(dataset, 'datasets'):
        dataset.datasets = [with_pipeline(part, pipeline) for part in dataset.datasets]
    elif hasattr(dataset, 'dataset'):
        dataset.dataset = with_pipeline(dataset.dataset, pipeline)
    else:
        raise TypeError(f'a {type(dataset).__name__} has no pipeline to replace')
    return dataset


def same_size(batch: Batch) -> Iterator[Batch]:
    """A batch of an mmengine loader, split into batches of images (C, H, W) of equal shape.

    Under test-time augmentation, where every entry is a list of views, each view counts as an image.
    """
    inputs = batch['inputs']
    if isinstance(inputs, Tensor):
        yield dict(batch)
        return
    if inputs and not isinstance(inputs[0], Tensor):
        views = [{key: value[k] for key, value in batch.items()} for k in range(len(inputs))]
        yield from (part for view in views for part in same_size(view))
        return
    lists = {key: value for key, value in batch.items() if isinstance(value, list | tuple)}
    for shape in dict.fromkeys(image.shape for image in inputs):
        chosen = [k for k, image in enumerate(inputs) if image.shape == shape]
        yield {**batch, **{key: [value[k] for k in chosen] for key, value in lists.items()}}


def forward_in(model: BaseModel, mode: str) -> Callable[[Batch], object]:
    """The function that calls an mmengine model with a batch from its loader, outside training."""
    return lambda batch: model(**model.data_preprocessor(batch, False), mode=mode)


def has_length(loader: DataLoader) -> bool:
    try:
        return len(loader) >= 0
    except TypeError:
        return False
