"""AdaBN in mmengine's Runner, for segmentors and classifiers alike.

Import this module only where mmengine is installed.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from logging import WARNING
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from .adapt import Statistics, adabn, batch_norms, get_statistics, set_statistics

LOG_EVERY = 50  # batches
BATCH_SIZE = 8  # test loaders of segmentation have 1, whose statistics make most nets worse than no adaptation


def bare_model(model: nn.Module) -> nn.Module:
    """The model itself, out of the wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module  # type: ignore[assignment]
    return model


def target_loader(loader: DataLoader, batch_size: int = BATCH_SIZE, seed: int = 0) -> DataLoader:
    """A loader of the same images in random order, each process its share and no image twice.

    A loader of its own, since the given one may be in the middle of its run and may pad its last batch.

    Args:
        loader: As the Runner builds it.
        batch_size: Images of a batch.
        seed: Of the order, the same in all processes.
    """
    order = torch.Generator().manual_seed(seed)
    common: dict[str, Any] = dict(batch_size=batch_size, collate_fn=loader.collate_fn, num_workers=loader.num_workers)
    common.update(worker_init_fn=loader.worker_init_fn, pin_memory=loader.pin_memory, generator=order)
    if isinstance(loader.dataset, IterableDataset):
        return DataLoader(loader.dataset, **common)
    indices = torch.randperm(len(loader.dataset), generator=order)[get_rank() :: get_world_size()]  # type: ignore
    return DataLoader(loader.dataset, sampler=indices.tolist(), **common)


def same_size(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A batch of an mmengine loader, taken apart into batches of images (C, H, W) of equal shape.

    Under test-time augmentation, where every entry is a list of views, the views are images like others.
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


def adapt_model(
    model: nn.Module,
    loader: DataLoader,
    momentum: float | None = None,
    max_batches: int | None = None,
    mode: str = 'tensor',
) -> nn.Module:
    """`timm_stylenorm.adapt.adabn` for an mmengine model and the batches of a loader, over all processes, with a log.

    Args:
        model: Called as the Runner does: `data_preprocessor`, then `forward(..., mode=mode)`.
        loader: Its batches are dicts with `inputs`; labels are not looked at.
        momentum: See `adabn`.
        max_batches: Of each process.
        mode: 'tensor', in which segmentors run backbone, neck and decode head, or 'predict' for models without it and
            for inference in sliding windows.

    Returns:
        The bare model.

    Raises:
        ValueError: See `adabn`.
    """
    model = bare_model(model)
    total = min(len(loader), max_batches or len(loader)) if _has_length(loader) else max_batches  # samplers may go on
    seen = single = 0

    def parts() -> Iterator[dict[str, Any]]:
        nonlocal seen, single
        for number, batch in enumerate(islice(loader, total), 1):
            for part in same_size(batch):
                seen, single = seen + len(part['inputs']), single + (len(part['inputs']) == 1)
                yield part
            if number % LOG_EVERY == 0:
                print_log(f'AdaBN: batch {number}{f"/{total}" if total else ""}', 'current')

    adabn(model, parts(), momentum, forward=_forward(model, mode), sync=True)
    how = 'estimated anew' if momentum is None else f'moved by {momentum} a batch'
    others = f', likewise in {get_world_size() - 1} more processes' if get_world_size() > 1 else ''
    print_log(f'AdaBN: {len(batch_norms(model))} batch norms {how}, on {seen} images{others}', 'current')
    if single * 2 > seen:
        print_log('AdaBN: most batches had one image; statistics from larger ones are better', 'current', WARNING)
    return model


def _forward(model: Any, mode: str) -> Callable[[dict[str, Any]], Any]:
    return lambda batch: model(**model.data_preprocessor(batch, False), mode=mode)


def _has_length(loader: DataLoader) -> bool:
    try:
        return len(loader) >= 0
    except TypeError:
        return False


@HOOKS.register_module()
class AdaBNHook(Hook):
    """Before testing, estimates the batch norm statistics anew on target images, and puts the old ones back after it.

        custom_hooks = [dict(type='AdaBNHook', batch_size=8)]

    Args:
        momentum: None for full adaptation, a number in (0, 1] for partial; see `timm_stylenorm.adapt.adabn`.
        max_batches: At most so many batches of each process.
        batch_size: Images of a batch, 8 by default: the more, the nearer to what deep norms see in evaluation. Images
            of different sizes are not mixed within a batch.
        dataloader: Config of a loader of target images, used as it is. By default the images that are tested on,
            without their labels, in an order drawn by `seed`.
        test: Adapt before testing.
        val: Adapt before validation, also during training.
        keep: Leave the adapted statistics in the model. Else the model is the old one after validation or test, so
            that training is not disturbed, and a checkpoint holds what was trained.
        mode: See `adapt_model`.
        seed: Of the order of the images.
    """

    priority = 'ABOVE_NORMAL'  # puts back before EMAHook (NORMAL) swaps the weights back

    def __init__(
        self,
        momentum: float | None = None,
        max_batches: int | None = None,
        batch_size: int | None = None,
        dataloader: dict | DataLoader | None = None,
        test: bool = True,
        val: bool = False,
        keep: bool = False,
        mode: str = 'tensor',
        seed: int = 0,
    ) -> None:
        if dataloader is not None and batch_size is not None:
            raise ValueError('AdaBNHook: batch_size belongs into dataloader=dict(batch_size=...)')
        self.options: dict[str, Any] = dict(momentum=momentum, max_batches=max_batches, mode=mode)
        self.batch_size, self.dataloader, self.seed = batch_size or BATCH_SIZE, dataloader, seed
        self.test, self.val, self.keep = test, val, keep
        self._source: Statistics | None = None

    def before_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Adapts at the first batch: by then hooks that exchange weights, such as EMAHook, have done so."""
        if self.test and batch_idx == 0:
            self._adapt(runner, runner.test_loop.dataloader)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Likewise."""
        if self.val and batch_idx == 0:
            self._adapt(runner, runner.val_loop.dataloader)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Puts the old statistics back."""
        self._restore(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Likewise."""
        self._restore(runner)

    def _adapt(self, runner: Any, tested: DataLoader) -> None:
        if self.dataloader is None:
            loader = target_loader(tested, self.batch_size, self.seed)
        else:
            loader = self.dataloader = runner.build_dataloader(self.dataloader, seed=self.seed)
        model = bare_model(runner.model)
        self._source = None if self.keep else get_statistics(model)
        adapt_model(model, loader, **self.options)

    def _restore(self, runner: Any) -> None:
        if self._source is not None:
            set_statistics(bare_model(runner.model), self._source)
            self._source = None
