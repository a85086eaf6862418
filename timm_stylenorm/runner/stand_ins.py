"""Tests that go on after a file that cannot be read, so that one bad image does not cost the results of all others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from logging import ERROR
from typing import Protocol

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .domains import image_of, in_domain

NEAR = 4  # neighbours that are tried first


class KeepsGoing(Protocol):
    """A data set whose test can go on after a file that cannot be read; see `item_or_stand_in`."""

    keep_going: bool

    def __len__(self) -> int: ...


def item_or_stand_in(
    dataset: KeepsGoing,
    get: Callable[[int], dict],
    index: int,
    mark: Callable[[dict, str, str], None],
    faults: tuple[type[Exception], ...],
) -> dict:
    """The item `get(index)`; if that fails and `dataset.keep_going` is set, a copy of another item in its place.

    Args:
        dataset: Tells the domain and the path of an image, if it has `domain_of` and `image_of`.
        get: Reads an item.
        index: Index of the item.
        mark: Notes in a stand-in the path of the image that it replaces and why that cannot be read; because of these
            notes metrics leave it out and `UnreadHook` names the file.
        faults: What `get` raises for a file that cannot be read.

    Raises:
        Exception: What `get` raises, if the data set does not keep going, or no item at all can be read.
    """
    try:
        return get(index)
    except faults as error:
        if not dataset.keep_going:
            raise
        for other in _others(index, len(dataset), vars(dataset).get('last_read')):
            try:
                item = get(other)
            except faults:
                continue
            vars(dataset)['last_read'] = other
            mark(item, image_of(dataset, index), str(error) or type(error).__name__)
            domain = dataset.domain_of(index) if hasattr(dataset, 'domain_of') else None
            return item if domain is None else in_domain(item, domain)
        raise


def _others(index: int, count: int, last: int | None) -> Iterator[int]:
    """Indices to try: neighbours, which most likely have the same size; the last one that was read; all others."""
    near = sorted((k for k in range(count) if k != index), key=lambda k: abs(k - index))
    yield from near[:NEAR]
    yield from [] if last is None else [last]
    yield from near[NEAR:]


@HOOKS.register_module()
class UnreadHook(Hook):
    """Lets a test on our data sets go on after a file that cannot be read, see `item_or_stand_in`.

    At the end, the files are logged as errors; `unread` has the reasons by image, and `tools/test.py` then ends with
    status 2.
    """

    def __init__(self) -> None:
        self.unread: dict[str, str] = {}

    def before_test(self, runner: Runner) -> None:
        """Runs before the first batch, on all processes."""
        self.unread = {}
        dataset = runner.test_loop.dataloader.dataset
        if hasattr(dataset, 'keep_going'):
            dataset.keep_going = True

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Sequence[Mapping] | None = None
    ) -> None:
        """Notes what could not be read."""
        for sample in outputs or ():
            fault = sample.get('unread')
            if fault:
                self.unread[fault['image']] = fault['reason']

    def after_test(self, runner: Runner) -> None:
        """Logs the files, on the first process for all processes."""
        self.unread = {image: why for part in all_gather_object(self.unread) for image, why in part.items()}
        for image, why in self.unread.items():
            print_log(f'not tested: {image}: {why}', 'current', ERROR)
