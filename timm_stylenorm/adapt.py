"""AdaBN: batch norm statistics re-estimated on images of the target domain.

Li, Wang, Shi, Liu, Hou, 'Revisiting Batch Normalization for Practical Domain Adaptation', arXiv:1603.04779.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import IBN, BatchInstanceNorm2d, SelfNorm
from .surgery.context import eval_mode

Statistics = list[dict[str, Tensor]]
_OURS = (BatchInstanceNorm2d, IBN, SelfNorm)
T = TypeVar('T')


class Tracked(_BatchNorm):
    """For type checkers: a batch norm that keeps running statistics."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor


_IMAGES = ('inputs', 'pixel_values', 'images', 'image', 'img')  # keys of mmengine, transformers, and others


def _images(batch: object) -> object:
    """The images of a batch from a data loader: a tensor, a list or tuple that begins with the images, or a dict.

    Raises:
        ValueError: A dict has none of the known keys for images.
    """
    if isinstance(batch, Mapping):
        name = next((name for name in _IMAGES if name in batch), None)
        if name is None:
            raise ValueError(
                f'adabn: a batch has the keys {sorted(map(str, batch))}, none of which is {", ".join(_IMAGES)}; give '
                'tensors (N, C, H, W), or rename its images'
            )
        return batch[name]
    return batch[0] if isinstance(batch, list | tuple) else batch


def _count(batch: object) -> int:
    """The number of images in a batch of any form: the rows of its first tensor, or the length of a list of images."""
    if isinstance(batch, Tensor):
        return len(batch)
    if isinstance(batch, Mapping):
        batch = [batch[name] for name in _IMAGES if name in batch] or list(batch.values())
    if not isinstance(batch, list | tuple):
        return 0
    if batch and isinstance(batch[0], Tensor) and batch[0].dim() == 3:
        return len(batch)  # single images
    return next((count for count in map(_count, batch) if count), 0)


def batch_norms(model: nn.Module) -> list[Tracked]:
    """The batch norms of a model that keep running statistics; both of them in a dual batch norm."""
    return [cast('Tracked', m) for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def get_statistics(model: nn.Module) -> Statistics:
    """Copies of the running statistics of all batch norms, in the order of `batch_norms`."""
    return [{key: value.clone() for key, value in norm.named_buffers(recurse=False)} for norm in batch_norms(model)]


@torch.no_grad()
def set_statistics(model: nn.Module, statistics: Statistics) -> None:
    """Put back what `get_statistics` returned for this model."""
    for norm, buffers in zip(batch_norms(model), statistics, strict=True):
        for key, value in buffers.items():
            getattr(norm, key).copy_(value)


@torch.no_grad()
def adabn(
    model: nn.Module,
    batches: Iterable[T],
    momentum: float | None = None,
    max_batches: int | None = None,
    forward: Callable[[T], object] | None = None,
    sync: bool = False,
) -> nn.Module:
    """Replace the running statistics of all batch norms by those of the given images, in place.

    Full adaptation (`momentum=None`) computes the moments of all images together, as the paper's algorithm does: the
    variance includes the part between the batches, which `torch.optim.swa_utils.update_bn` leaves out, so batches of
    one image work, too. A norm still sees feature maps that the norms before it have normalised over the batch, so
    larger batches are closer to evaluation. Everything but the norms stays in evaluation mode (dropout, style layers
    that act in training), a norm that no image reaches keeps its statistics, and after an error all norms have their
    old statistics.

    Args:
        model: The model. Its parameters and the modes of its modules do not change.
        batches: Target images: tensors (N, C, H, W), tuples that begin with one, or dicts with `inputs`,
            `pixel_values`, `images`, `image` or `img`. Batches without an image are skipped.
        momentum: None discards the old statistics, and all images have the same weight. A number in (0, 1] keeps the
            old statistics and moves them by this share at each batch.
        max_batches: Stop after this number of batches.
        forward: Called with each batch instead of `model(images)`, for models with another signature; the batch may
            then be anything whose first tensor has one row for each image.
        sync: Pool the statistics over the processes of torch.distributed, each of which has its share of the images.

    Returns:
        The same model.

    Raises:
        ValueError: The model has no batch norm with running statistics, there is no image, the images of a batch are
            not found, or the momentum is out of range.
    """
    norms = batch_norms(model)
    if not norms:
        raise ValueError(f'adabn: {type(model).__name__} has no batch norm with running statistics')
    if momentum is not None and not 0 < momentum <= 1:
        raise ValueError(f'adabn: expected 0 < momentum <= 1 or None, got {momentum}')
    device = next((p.device for p in model.parameters()), torch.device('cpu'))
    before = get_statistics(model)
    pools = [_Pool(norm, momentum) for norm in norms]
    try:
        with _only_norms_train(model, norms, momentum):
            for batch in islice(batches, max_batches):
                count = _count(batch)
                if not count:
                    continue
                for pool in pools:
                    pool.begin()
                images = batch if forward else _images(batch)
                _ = forward(batch) if forward else model(images.to(device) if isinstance(images, Tensor) else images)
                for pool in pools:
                    pool.end(count)
        _write(pools, before, sync and dist.is_initialized())
    except BaseException:
        set_statistics(model, before)
        raise
    return model


@contextmanager
def _only_norms_train(model: nn.Module, norms: list[Tracked], momentum: float | None) -> Iterator[None]:
    """Within, the norms take their moments from the batch of this process; all else is in evaluation mode."""
    momenta = [norm.momentum for norm in norms]
    patched = [m for m in model.modules() if isinstance(m, (_BatchNorm, *_OURS)) and 'forward' not in vars(m)]
    try:
        with eval_mode(model):
            for norm in norms:
                norm.training, norm.momentum = True, momentum  # not train(): their children stay as they are
            for layer in patched:
                layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
            yield
    finally:
        for norm, old in zip(norms, momenta, strict=True):
            norm.momentum = old
        for layer in patched:
            del layer.forward


def _forward(norm: nn.Module, x: Tensor) -> Tensor:
    """The forward pass of a batch norm, or of one of our layers with one, for any number of processes and values.

    Processes may have different numbers of batches, so the forward pass of SyncBatchNorm, which would wait for all of
    them, is not used. A single value (the pooled map of one image), which torch refuses and our layers do not count,
    has variance 0.
    """
    kind = type(norm)
    forward: Callable[..., Tensor] = _BatchNorm.forward if kind.forward is nn.SyncBatchNorm.forward else kind.forward
    single = len(x) == 1 and (isinstance(norm, SelfNorm) or x.numel() == x.shape[1])
    return forward(norm, torch.cat([x, x]))[:1] if single else forward(norm, x)


class _Pool:
    """The moments of one norm over all batches so far; if a batch calls it twice, the mean of the two calls counts."""

    def __init__(self, norm: Tracked, momentum: float | None) -> None:
        self.norm, self.full = norm, momentum is None
        self.mean, self.var = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
        self.weight = 0.0
        self.calls = 0

    def begin(self) -> None:
        """Before a batch: let the norm compute a plain average from here on, unless its old statistics are moved."""
        if self.full:
            self.norm.running_mean.zero_()
            self.norm.running_var.zero_()
        self.norm.num_batches_tracked.zero_()

    def end(self, images: int) -> None:
        """After a batch of this number of images: update mean and variance by Chan's formula."""
        if not self.norm.num_batches_tracked:
            return
        self.calls += 1
        mean, var = self.norm.running_mean, self.norm.running_var
        if not self.full:
            self.weight, self.mean, self.var = 1.0, mean.clone(), var.clone()
            return
        self.weight += images
        share, delta = images / self.weight, mean - self.mean
        self.mean = self.mean + delta * share
        self.var = self.var + (var - self.var + delta.square() * (1 - share)) * share


def _write(pools: list[_Pool], before: Statistics, sync: bool) -> None:
    """Write the pooled statistics into the norms; a norm that no image reached gets its old statistics."""
    like = pools[0].mean
    weights = torch.tensor([[p.weight, p.calls] for p in pools], dtype=torch.float32, device=like.device)
    if sync:
        totals = weights.clone()
        dist.all_reduce(totals)
        sizes = torch.tensor([len(p.mean) for p in pools], device=like.device)
        share = (weights[:, 0] / totals[:, 0].clamp(min=1)).repeat_interleave(sizes)
        own, mean = torch.cat([p.mean for p in pools]), torch.cat([p.mean for p in pools]) * share
        dist.all_reduce(mean)
        var = torch.cat([p.var for p in pools])
        var = (var + (own - mean).square() if pools[0].full else var) * share
        dist.all_reduce(var)
        for pool, m, v in zip(pools, mean.split(sizes.tolist()), var.split(sizes.tolist()), strict=True):
            pool.mean, pool.var = m, v
        weights = totals
    if not weights.any():
        raise ValueError('adabn: there was no batch to estimate statistics from')
    for pool, old, (weight, calls) in zip(pools, before, weights.tolist(), strict=True):
        norm = pool.norm
        norm.running_mean.copy_(pool.mean if weight else old['running_mean'])
        norm.running_var.copy_(pool.var if weight else old['running_var'])
        known = 0 if pool.full and weight else old['num_batches_tracked']
        norm.num_batches_tracked.copy_(known + torch.tensor(int(calls)))
