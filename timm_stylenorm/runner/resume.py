"""Exact resume: a run that was killed and resumed gives the same weights as one that was not killed.

mmengine's checkpoints lack the states of the random number generators, so layers and augmentations that use random
numbers would go on differently.
"""

import functools
import random
from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner

from .host import restart_workers, start_of
from .loaders import Batch

KEY = 'rng_states'


class RNGState(TypedDict, total=False):
    """States of generators; the lists hold the content of their own states, with tensors in place of arrays."""

    python: list
    numpy: list
    torch: torch.Tensor
    cuda: list[torch.Tensor]
    loader: torch.Tensor  # if it has a generator of its own


def get_rng_state(loader: torch.Generator | None = None) -> RNGState:
    """The generators' states in this process as tensors and numbers, so that they load with `weights_only=True`."""
    version, words, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002 (what mmengine and mmcv draw from)
    keys, position = torch.from_numpy(legacy['state']['key'].astype(np.int64)), legacy['state']['pos']
    state: RNGState = {
        'python': [version, torch.tensor(words), gauss],
        'numpy': [str(legacy['bit_generator']), keys, int(position), int(legacy['has_gauss']), float(legacy['gauss'])],
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    return state if loader is None else {**state, 'loader': loader.get_state()}


def set_rng_state(state: RNGState, loader: torch.Generator | None = None) -> None:
    """Restores what `get_rng_state` returned; for GPUs, only as many as both sides have."""
    version, words, gauss = state['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = state['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    for device, cuda in enumerate(state['cuda'][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda.cpu(), device)
    if loader is not None and 'loader' in state:
        loader.set_state(state['loader'].cpu())


class _RestoreAfterSkip:
    """Replaces the loop's iterator until the batches already trained on are skipped; then restores the generators."""

    def __init__(self, loop: IterBasedTrainLoop, restore: Callable[[], None]) -> None:
        self.loop, self.inner, self.restore = loop, loop.dataloader_iterator, restore
        self.left = 0 if getattr(loop, 'fast_forward_on_resume', False) else loop.iter

    def __iter__(self) -> '_RestoreAfterSkip':
        return self

    def skip_iter(self, count: int) -> None:
        self.inner.skip_iter(count)
        self.left = 0

    def __next__(self) -> object:
        if self.left > 0:
            self.left -= 1
            return next(self.inner)
        self.loop.dataloader_iterator = self.inner
        self.restore()
        return next(self.inner)


@HOOKS.register_module()
class RNGStateHook(Hook):
    """Saves every rank's random number generators in each checkpoint and restores them on resume, bit for bit.

    This holds for the same kind of machine and the same number of threads: sums depend on both.

    Validation does not disturb training: the generators are restored after it, since a resumed run does not repeat it.
    The state of data loader workers cannot be read. An iteration-based loop therefore restarts them (also persistent
    ones) at every checkpoint, seeded by the iteration. An epoch-based loop starts new ones in each epoch anyway, unless
    `persistent_workers=True`, which cannot be resumed exactly (a warning says so).
    """

    priority = 80  # after everything that may draw, before CheckpointHook (90)

    def __init__(self) -> None:
        self._gathered: list[RNGState] | None = None  # all ranks' states, gathered where all ranks take part
        self._before_val: RNGState | None = None
        self._loaded: list[RNGState] | None = None
        self._generator: torch.Generator | None = None

    def before_train(self, runner: Runner) -> None:
        """Gives the loader its own generator and, on resume, arranges the restore."""
        loader, loop = runner.train_dataloader, runner.train_loop
        if loader.generator is None:  # else each new iterator would draw its base seed from the model's generator
            loader.generator = torch.Generator().manual_seed(runner.seed or 0)
        self._generator = loader.generator
        if runner.iter == 0 and runner.epoch == 0:
            self._loaded = None
            return
        state = self._own_state(runner)
        self._loaded = None
        if state is None:
            return
        if isinstance(loop, IterBasedTrainLoop):
            self._reseed_workers(runner, loop.iter)
            loop.dataloader_iterator = _RestoreAfterSkip(loop, lambda: set_rng_state(state, self._generator))
        else:
            if loader.num_workers and loader.persistent_workers:
                runner.logger.warning(
                    'RNGStateHook: with persistent_workers=True the workers draw on across epochs; this resume is not '
                    'exact. Set train_dataloader.persistent_workers=False.'
                )
            set_rng_state(state, self._generator)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Batch | None = None, outputs: object = None
    ) -> None:
        """Gathers the ranks' states when a checkpoint is about to be saved."""
        if not any(self._saves_now(runner, hook) for hook in runner.hooks if isinstance(hook, CheckpointHook)):
            return
        self._gather()
        if isinstance(runner.train_loop, IterBasedTrainLoop) and self._reseed_workers(runner, runner.iter + 1):
            runner.train_loop.dataloader_iterator.skip_iter(runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Gathers the ranks' states, after every epoch, since there are few."""
        self._gather()

    def before_val(self, runner: Runner) -> None:
        """Keeps the states for training; the best checkpoint is saved during validation and gets these."""
        self._gather()
        self._before_val = get_rng_state(self._generator)

    def after_val(self, runner: Runner) -> None:
        """Restores the states for training."""
        if self._before_val is not None:
            set_rng_state(self._before_val, self._generator)
            self._before_val = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds `rng_states`: one dict of tensors and numbers per rank."""
        if get_world_size() == 1:
            checkpoint[KEY] = [self._before_val or get_rng_state(self._generator)]
        elif self._gathered is not None:
            checkpoint[KEY] = self._gathered
        else:
            runner.logger.warning(
                'RNGStateHook: this checkpoint was not saved by CheckpointHook; it has no rng_states.'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps the states until training starts; a run that starts from the weights at iteration 0 ignores them."""
        self._loaded = checkpoint.get(KEY)
        seed = checkpoint.get('meta', {}).get('seed') if start_of(runner).resume else None
        if seed is not None and seed != runner.seed:
            runner.logger.warning(
                f'RNGStateHook: the checkpoint has seed {seed}, this run {runner.seed}: the data order differs. '
                f'Set randomness=dict(seed={seed}).'
            )

    def _own_state(self, runner: Runner) -> RNGState | None:
        if self._loaded is None:
            runner.logger.warning('RNGStateHook: the checkpoint has no rng_states; resuming, but not exactly.')
            return None
        if len(self._loaded) != get_world_size():
            runner.logger.warning(
                f'RNGStateHook: the checkpoint has generators of {len(self._loaded)} processes, this run has '
                f'{get_world_size()}; resuming, but not exactly.'
            )
        return self._loaded[get_rank()] if get_rank() < len(self._loaded) else None

    def _gather(self) -> None:
        if get_world_size() > 1:
            self._gathered = all_gather_object(get_rng_state(self._generator))

    @staticmethod
    def _saves_now(runner: Runner, hook: CheckpointHook) -> bool:
        if hook.by_epoch:
            return False
        due = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
        return due or (hook.save_last and hook.is_last_train_iter(runner))

    @staticmethod
    def _reseed_workers(runner: Runner, iteration: int) -> bool:
        """Seeds the next workers by `iteration`; False if the loop replays the skipped batches in them instead."""
        loader = runner.train_dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
        skips = hasattr(runner.train_loop.dataloader_iterator, 'skip_iter') and hasattr(sampler, 'skip')
        if not (loader.num_workers and skips and isinstance(loader.worker_init_fn, functools.partial)):
            return False
        init = loader.worker_init_fn
        base = getattr(loader, 'stylenorm_seed', init.keywords.get('seed', 0))
        loader.stylenorm_seed = base
        seed = (base + 9973 * iteration) % 2**31
        loader.worker_init_fn = functools.partial(init.func, *init.args, **{**init.keywords, 'seed': seed})
        restart_workers(loader)
        return True
