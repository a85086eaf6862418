"""The schedule of instance selective whitening in mmengine's Runner. Import it only where mmengine is installed."""

from collections.abc import Iterator
from itertools import islice

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..surgery.companions import provide
from ..whitening import photometric_view, select_pairs, selective_layers
from .host import image_format
from .loaders import Batch, forward_in, same_size, target_loader
from .model import bare_model
from .resume import get_rng_state, set_rng_state


@HOOKS.register_module()
class ISWHook(Hook):
    """Lets the ISW layers choose their pairs of channels once, at a given iteration; from then on they have a loss.

        custom_hooks = [dict(type='ISWHook', begin=4000)]

    The choice compares training images with photometric views of them; it leaves the random numbers of the training
    alone. It is part of the checkpoint, so a resumed run goes on with it.

    Args:
        begin: Iteration before which the pairs are chosen; by default after a tenth of the training, as the authors do,
            after 5 of about 50 epochs.
        batches: Training batches to look at, in each process.

    Raises:
        ValueError: A negative `begin`, or no batch; in training, a model without ISW layers.
    """

    def __init__(self, begin: int | None = None, batches: int = 50) -> None:
        if (begin is not None and begin < 0) or batches < 1:
            raise ValueError(f'ISWHook: expected begin >= 0 and batches >= 1, got {begin} and {batches}')
        self.begin, self.batches, self.done = begin, batches, False

    def before_train(self, runner: Runner) -> None:
        """The layers are without a choice until `begin` on purpose."""
        provide(bare_model(runner.model), 'pairs')
        self.begin = runner.max_iters // 10 if self.begin is None else self.begin

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batch | None = None) -> None:
        """Choose, once; also in a run that was resumed later than `begin` from a checkpoint without a choice."""
        if self.begin is None or runner.iter < self.begin or self.done:
            return
        self.done = True
        model = bare_model(runner.model)
        layers = selective_layers(model)
        if layers and all(layer.chosen for _, layer in layers):
            return
        states = get_rng_state()
        try:
            torch.manual_seed(torch.initial_seed() + self.begin)
            loader = target_loader(runner.train_dataloader, runner.train_dataloader.batch_size or 1)
            chosen = select_pairs(model, self._pairs(loader, model), forward_in(model, 'tensor'))
        finally:
            set_rng_state(states)
        told = ', '.join(f'{name} {count}' for name, count in chosen.items())
        print_log(
            f'instance selective whitening: pairs of channels chosen from {self.batches} batches: {told}', 'current'
        )

    def _pairs(self, loader: DataLoader, model: BaseModel) -> Iterator[Batch]:
        """[views; images] as the loader would give them, of one size: images smaller than a crop differ."""
        bgr = image_format(model.data_preprocessor).loads_bgr
        for data in (part for batch in islice(loader, self.batches) for part in same_size(batch)):
            images = list(data['inputs'])
            views = [photometric_view(i.flip(0)).flip(0) if bgr else photometric_view(i) for i in images]
            twice = {k: [*v, *v] for k, v in data.items() if k != 'inputs'}
            yield {**twice, 'inputs': views + images}
