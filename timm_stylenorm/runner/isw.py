"""The schedule of instance selective whitening in mmengine's Runner. Import it only if mmengine is installed."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ..surgery.companions import provide
from ..whitening import photometric_view, select_pairs, selective_layers
from ..workers import end_with_parent
from .host import image_format
from .loaders import Batch, forward_in, with_pipeline
from .model import bare_model
from .resume import get_rng_state, set_rng_state

Pair = list[dict[str, object]]


class _Views(Dataset):
    """[its photometric view, the image] for every image of a data set."""

    def __init__(self, dataset: Any, view: Callable[[Tensor], Tensor]) -> None:
        self.dataset, self.view = dataset, view

    def __getitem__(self, index: int) -> Pair:
        item = self.dataset[index]
        return [{**item, 'inputs': self.view(item['inputs'])}, item]


class _StreamOfViews(_Views, IterableDataset):
    """The same for a data set that is read in order."""

    def __iter__(self) -> Iterator[Pair]:
        return ([{**item, 'inputs': self.view(item['inputs'])}, item] for item in self.dataset)


class _Some(Sampler):
    """A random part of the images, another one in each iteration; each of several processes takes its share."""

    def __init__(self, total: int, some: int) -> None:
        self.total, self.some, self.order = total, some, torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[int]:
        drawn = torch.randperm(self.total, generator=self.order)[: self.some]
        return iter(drawn[get_rank() :: get_world_size()].tolist())


class _Trial:
    """Batches of one image and its view, as from the loader; iterated again for each trial."""

    def __init__(self, loader: DataLoader, dataset: Any, images: int, view: Callable[[Tensor], Tensor]) -> None:
        stream = isinstance(dataset, IterableDataset)
        # mmengine seeds workers the same each time, so trials would draw the same views: its worker_init_fn is not used
        common = {name: getattr(loader, name) for name in ('collate_fn', 'num_workers', 'pin_memory')}
        common |= {'batch_size': None, 'worker_init_fn': end_with_parent}
        if stream:
            self.pairs = DataLoader(_StreamOfViews(dataset, view), **common)
        else:
            self.pairs = DataLoader(_Views(dataset, view), sampler=_Some(len(dataset), images), **common)
        self.most = -(-images // get_world_size()) if stream else None

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.pairs, self.most)


def _turned_view(image: Tensor) -> Tensor:
    """`photometric_view` of an image whose channels are blue, green, red."""
    return photometric_view(image.flip(0)).flip(0)


@HOOKS.register_module()
class ISWHook(Hook):
    """Lets the ISW layers choose their pairs of channels once, at a given iteration; from then on they have a loss.

        whole = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
        custom_hooks = [dict(type='ISWHook', begin=4644, pipeline=whole)]

    The choice compares training images with photometric views of them, an image and its view at a time, as the authors
    do. It does not affect the random numbers of the training. It is part of the checkpoint, and a resumed run keeps it.

    Args:
        begin: Iteration before which the pairs are chosen; by default after a tenth of the training. The authors do it
            after 6 epochs, 4,644 of their 40,000 steps.
        images: Training images to look at in each trial, by all processes together.
        trials: Number of trials; the pairs that react in each of them are chosen.
        pipeline: Transforms that replace those of the training's data set, so that whole images are compared, as the
            authors do; by default images are cropped and jittered as in training.

    Raises:
        ValueError: A negative `begin`, no image or no trial; in training, the model has no ISW layers.
        TypeError: In training, a `pipeline` is given and the data set has none.
    """

    def __init__(
        self, begin: int | None = None, images: int = 500, trials: int = 10, pipeline: Sequence[object] | None = None
    ) -> None:
        if (begin is not None and begin < 0) or images < 1 or trials < 1:
            raise ValueError(
                f'ISWHook: expected begin >= 0, images >= 1 and trials >= 1, got {begin}, {images} and {trials}'
            )
        self.begin, self.images, self.trials, self.pipeline, self.done = begin, images, trials, pipeline, False

    def before_train(self, runner: Runner) -> None:
        """Tells the layers that their choice follows at `begin`, so that they do not warn; checks the data set."""
        provide(bare_model(runner.model), 'pairs')
        self.begin = runner.max_iters // 10 if self.begin is None else self.begin
        self._batches(
            runner.train_dataloader, bare_model(runner.model)
        )  # so that errors in these settings show before the training

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batch | None = None) -> None:
        """Choose once; also in a run that was resumed after `begin` from a checkpoint without a choice."""
        if self.begin is None or runner.iter < self.begin or self.done:
            return
        self.done = True
        model = bare_model(runner.model)
        layers = selective_layers(model)
        if layers and all(layer.chosen for _, layer in layers):
            return
        looks = f'{self.trials} trials of {self.images} images'
        print_log(f'instance selective whitening: choosing pairs of channels in {looks}', 'current')
        states = get_rng_state()
        try:
            torch.manual_seed(torch.initial_seed() + self.begin)
            batches = self._batches(runner.train_dataloader, model)
            chosen = select_pairs(model, batches, forward_in(model, 'tensor'), self.trials)
        finally:
            set_rng_state(states)
        told = ', '.join(f'{name} {count}' for name, count in chosen.items())
        print_log(f'instance selective whitening: pairs of channels that react in {looks}: {told}', 'current')

    def _batches(self, loader: DataLoader, model: BaseModel) -> _Trial:
        dataset = loader.dataset if self.pipeline is None else with_pipeline(loader.dataset, self.pipeline)
        view = _turned_view if image_format(model.data_preprocessor).loads_bgr else photometric_view
        return _Trial(loader, dataset, self.images, view)
