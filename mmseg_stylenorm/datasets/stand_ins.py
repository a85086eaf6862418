"""Stand-ins for pairs that cannot be read in a test of segmentation."""

from collections.abc import Callable
from functools import partial

import cv2

from timm_stylenorm.datafiles import UNREADABLE
from timm_stylenorm.runner import stand_ins
from timm_stylenorm.runner.domains import samples_of

FAULTS = (*UNREADABLE, AssertionError, cv2.error)  # mmcv asserts that an image was decoded


def item_or_stand_in(dataset: stand_ins.KeepsGoing, get: Callable[[int], dict], index: int) -> dict:
    """`runner.stand_ins.item_or_stand_in`; a stand-in has no labelled pixel and holds `unread` in its metainfo."""
    return stand_ins.item_or_stand_in(
        dataset, get, index, partial(_mark, getattr(dataset, 'ignore_index', 255)), FAULTS
    )


def _mark(ignore_index: int, item: dict, image: str, reason: str) -> None:
    for sample in samples_of(item):
        sample.set_metainfo({'unread': {'image': image, 'reason': reason}})
        if 'gt_sem_seg' in sample:
            sample.gt_sem_seg.data.fill_(ignore_index)
