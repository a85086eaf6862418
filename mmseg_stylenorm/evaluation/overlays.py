"""Coloured predictions drawn over their images."""

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
    """mmseg's `SegVisualizationHook`, which also handles predictions whose size differs from the image file's.

    If a test scores predictions on the resized or cropped image that the network sees (`ScoreAsShown`), they are drawn
    over that image; under test-time augmentation, which has several views, they are left out. The name of a picture
    contains the domain and the image's folders below the common folder of the domain.
    """

    _shown = 0  # number of images so far; the visualizer counts each as a step

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
            if image.shape[:2] != size and not isinstance(inputs[0], list | tuple):  # a list would be several views
                shown = inputs[number].permute(1, 2, 0).numpy()  # BGR, as mmcv loads it
                image = np.ascontiguousarray(shown[:, :, ::-1])
            if image.shape[:2] != size:
                continue
            domain = sample.get('domain', '')
            file = prediction_file(sample.img_path, domain, folders.get(domain))
            name = '_'.join(['test', *file.with_suffix('').parts])
            self._visualizer.add_datasample(
                name, image, data_sample=sample, show=self.show, wait_time=self.wait_time, step=self._shown
            )
