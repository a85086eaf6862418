"""Tests that go on after a file that cannot be read, so that one bad pair does not cost the results of all others."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2

from timm_stylenorm.datafiles import UNREADABLE

NEAR = 4  # neighbours that are tried
FAULTS = (*UNREADABLE, AssertionError, cv2.error)  # mmcv asserts that an image was decoded


def item_or_stand_in(dataset: Any, get: Callable[[int], dict], index: int) -> dict:
    """The item `get(index)`; where that fails and `dataset.keep_going` is set, a copy of another item in its place.

    The stand-in has no labelled pixel. Its samples have `unread=dict(image=..., reason=...)` in their meta information,
    by which metrics and hooks of this package leave it out and name the file.

    Raises:
        Exception: What `get` raises, if the data set does not keep going, or no item at all can be read.
    """
    try:
        return get(index)
    except FAULTS as error:
        if not dataset.keep_going:
            raise
        for other in _others(index, len(dataset), dataset.__dict__.get('last_read')):
            try:
                item = get(other)
            except FAULTS:
                continue
            dataset.last_read = other
            _mark(item, {'image': _image_of(dataset, index), 'reason': str(error) or type(error).__name__}, dataset)
            if hasattr(dataset, 'domain_of'):
                _rename(item, dataset.domain_of(index))
            return item
        raise


def _others(index: int, count: int, last: int | None) -> Iterator[int]:
    """The neighbours first, which have the same size if any have; then what could be read before; then all."""
    near = sorted((k for k in range(count) if k != index), key=lambda k: abs(k - index))
    yield from near[:NEAR]
    yield from [] if last is None else [last]
    yield from near[NEAR:]


def _samples(item: dict) -> list:
    samples = item['data_samples']
    return samples if isinstance(samples, list) else [samples]  # views of test-time augmentation


def _mark(item: dict, fault: dict[str, str], dataset: Any) -> None:
    for sample in _samples(item):
        sample.set_metainfo({'unread': fault})
        if 'gt_sem_seg' in sample:
            sample.gt_sem_seg.data.fill_(getattr(dataset, 'ignore_index', 255))


def _rename(item: dict, domain: str) -> None:
    for sample in _samples(item):
        sample.set_metainfo({'domain': domain})
    item['domain'] = [domain] * len(_samples(item)) if isinstance(item['data_samples'], list) else domain


def _image_of(dataset: Any, index: int) -> str:
    """The path of an image, or its number where the data set does not tell."""
    if hasattr(dataset, 'image_of'):
        return str(dataset.image_of(index))
    return str(dataset.get_data_info(index).get('img_path', f'number {index}'))
