"""Coloured predictions over the images that they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import mmcv
import numpy as np
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.structures import SegDataSample

from .predictions import prediction_file


@HOOKS.register_module()
class OverlayHook(SegVisualizationHook):
    """mmseg's `SegVisualizationHook`, also for predictions that have another size than the file of their image.

    Where a test scores what the network sees (`ScoreAsShown`), resized or cropped, they are drawn over that; with
    test-time augmentation, which has several views, they are left out. Names of pictures have the folders of the image,
    as far as they differ within the domain, and the domain.
    """

    _shown = 0  # images, of which each is a step for the visualizer

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Draw each image of the batch."""
        if not self.draw:
            return
        inputs = data_batch['inputs']
        folders = (runner.test_loop.evaluator.dataset_meta or {}).get('image_folders', {})
        for number, sample in enumerate(outputs):
            self._shown += 1
            if sample.get('unread'):
                continue
            image, size = mmcv.imread(sample.img_path, channel_order='rgb'), sample.pred_sem_seg.shape
            if image.shape[:2] != size and not isinstance(inputs[0], list | tuple):  # not of several views
                shown = inputs[number].permute(1, 2, 0).numpy()  # as mmcv loads it, BGR
                image = np.ascontiguousarray(shown[:, :, ::-1])
            if image.shape[:2] != size:
                continue
            domain = sample.get('domain', '')
            file = prediction_file(sample.img_path, domain, folders.get(domain))
            name = '_'.join(['test', *file.with_suffix('').parts])
            self._visualizer.add_datasample(
                name, image, data_sample=sample, show=self.show, wait_time=self.wait_time, step=self._shown
            )
