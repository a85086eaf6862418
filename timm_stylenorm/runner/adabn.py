"""AdaBN in mmengine's Runner, for segmentors and classifiers alike."""

from collections.abc import Iterator, Sequence
from itertools import islice
from logging import WARNING

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..adapt import Statistics, adabn, batch_norms, get_statistics, set_statistics
from .loaders import Batch, forward_in, has_length, same_size, target_loader
from .model import bare_model

LOG_EVERY = 50  # batches


def adapt_model(
    model: nn.Module,
    loader: DataLoader,
    momentum: float | None = None,
    max_batches: int | None = None,
    mode: str = 'tensor',
    sync: bool = True,
) -> nn.Module:
    """`timm_stylenorm.adapt.adabn` for an mmengine model and the batches of a loader, with a log.

    Args:
        model: Called as the Runner calls it: `data_preprocessor`, then `forward(..., mode=mode)`.
        loader: Its batches are dicts with `inputs`; labels are not used.
        momentum: See `adabn`.
        max_batches: Maximum number of batches in each process.
        mode: 'tensor', in which segmentors run backbone, neck and decode head, or 'predict' for models without that
            mode and for inference in sliding windows.
        sync: Whether to pool the statistics over all processes.

    Returns:
        The bare model.

    Raises:
        ValueError: See `adabn`.
    """
    model = bare_model(model)
    total = min(len(loader), max_batches or len(loader)) if has_length(loader) else max_batches  # samplers may go on
    seen = single = 0

    def parts() -> Iterator[Batch]:
        nonlocal seen, single
        for number, batch in enumerate(islice(loader, total), 1):
            for part in same_size(batch):
                seen, single = seen + len(part['inputs']), single + (len(part['inputs']) == 1)
                yield part
            if number % LOG_EVERY == 0:
                print_log(f'AdaBN: batch {number}{f"/{total}" if total else ""}', 'current')

    adabn(model, parts(), momentum, forward=forward_in(model, mode), sync=sync)
    how = 'estimated anew' if momentum is None else f'moved by {momentum} a batch'
    others = f', likewise in {get_world_size() - 1} more processes' if sync and get_world_size() > 1 else ''
    print_log(f'AdaBN: {len(batch_norms(model))} batch norms {how}, on {seen} images{others}', 'current')
    if single * 2 > seen:
        print_log('AdaBN: most batches had one image; statistics from larger ones are better', 'current', WARNING)
    return model


@HOOKS.register_module()
class AdaBNHook(Hook):
    """During a test, the batch norms use the statistics of the tested images; afterwards, the old ones are restored.

        custom_hooks = [dict(type='AdaBNHook')]

    If the batches name their `domain`, as with several test sets in one `MultiDomainDataset`, each domain is tested
    with the statistics of its own images.

    Args:
        momentum: None for full adaptation, a number in (0, 1] for partial; see `timm_stylenorm.adapt.adabn`.
        max_batches: Maximum number of batches in each process.
        batch_size: Number of images in a batch. By default as in the loader, but at least 8: the more images, the
            closer the statistics are to what deep norms see in evaluation. Images of different sizes are not mixed
            within a batch.
        dataloader: Config of a loader of target images, used as it is, for all domains. By default the tested images,
            without their labels, in a fixed random order.
        on: When to adapt: 'test', 'val', or both.
        by_domain: Whether domains have statistics of their own.
        keep: Leave the adapted statistics (of the last domain) in the model. Otherwise the model is the old one after
            the test, so that training is not disturbed, and a checkpoint holds what was trained.
        mode: See `adapt_model`.

    Raises:
        ValueError: A value out of range; in a test, a batch of several domains.
    """

    priority = 'ABOVE_NORMAL'  # restores before EMAHook (NORMAL) swaps the weights back

    def __init__(
        self,
        momentum: float | None = None,
        max_batches: int | None = None,
        batch_size: int | None = None,
        dataloader: dict | DataLoader | None = None,
        on: str | Sequence[str] = 'test',
        by_domain: bool = True,
        keep: bool = False,
        mode: str = 'tensor',
    ) -> None:
        self.on = (on,) if isinstance(on, str) else tuple(on)
        if not self.on or not set(self.on) <= {'test', 'val'}:
            raise ValueError(f"AdaBNHook: on is 'test', 'val' or ('test', 'val'), got {on!r}")
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f'AdaBNHook: expected 0 < momentum <= 1 or None, got {momentum}')
        if dataloader is not None and batch_size is not None:
            raise ValueError('AdaBNHook: batch_size belongs into dataloader=dict(batch_size=...)')
        self.momentum, self.max_batches, self.mode = momentum, max_batches, mode
        self.batch_size, self.dataloader, self.by_domain, self.keep = batch_size, dataloader, by_domain, keep
        self._source: Statistics | None = None
        self._domain: str | None = None

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Batch | None = None) -> None:
        """Adapts at the first batch: by then hooks that swap weights, such as EMAHook, have done so."""
        if 'test' in self.on:
            self._adapt(runner, runner.test_loop.dataloader, data_batch)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Batch | None = None) -> None:
        """Likewise."""
        if 'val' in self.on:
            self._adapt(runner, runner.val_loop.dataloader, data_batch)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Restores the old statistics."""
        self._restore(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Likewise."""
        self._restore(runner)

    def _adapt(self, runner: Runner, tested: DataLoader, batch: Batch | None) -> None:
        domain = self._domain_of(batch)
        if self._source is not None and domain == self._domain:
            return
        model = bare_model(runner.model)
        if self._source is None:
            self._source = get_statistics(model)
        else:
            set_statistics(model, self._source)
        self._domain = domain
        if domain is not None:
            print_log(f'AdaBN: domain {domain}', 'current')
        if self.dataloader is None:
            loader = target_loader(tested, self.batch_size, domain)
        else:
            loader = self.dataloader = runner.build_dataloader(self.dataloader, seed=0)
        # processes may reach the domains in different orders, so each adapts to all images of its domain by itself
        adapt_model(
            model, loader, momentum=self.momentum, max_batches=self.max_batches, mode=self.mode, sync=domain is None
        )

    def _domain_of(self, batch: Batch | None) -> str | None:
        if not self.by_domain or self.dataloader is not None:
            return None
        named = (batch or {}).get('domain', ())
        # test-time augmentation: a list for each view
        found = {str(name) for entry in named for name in (entry if isinstance(entry, list | tuple) else [entry])}
        if len(found) > 1:
            raise ValueError(
                f'AdaBNHook: a batch has images of several domains ({", ".join(sorted(found))}), each of which needs '
                'statistics of its own; choose a batch_size that divides the domains, or by_domain=False'
            )
        return next(iter(found), None)

    def _restore(self, runner: Runner) -> None:
        if self._source is not None and not self.keep:
            set_statistics(bare_model(runner.model), self._source)
        self._source = self._domain = None
