"""Loading that says which file is at fault."""

import numpy as np
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

IGNORE = 255
_CURE = 'tools/prepare_gta5.py or tools/prepare_cityscapes.py checks and converts labels'


@TRANSFORMS.register_module()
class LoadTrainIds(LoadAnnotations):
    """mmseg's `LoadAnnotations`, which checks that a label holds train ids only.

    A class id out of range otherwise ends in an index error on the device, or in silence.

    Args:
        num_classes: Ids 0..num_classes - 1 are valid, and 255, which is ignored.
        **kwargs: See mmseg's `LoadAnnotations`.

    Raises:
        FileNotFoundError: If the label does not exist.
        ValueError: If it cannot be decoded, is not a map of single ids, or holds an id out of range.
    """

    def __init__(self, num_classes: int = 19, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self._valid = np.zeros(256, bool)
        self._valid[:num_classes] = self._valid[IGNORE] = True

    def _load_seg_map(self, results: dict) -> None:
        path = results['seg_map_path']
        try:
            super()._load_seg_map(results)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'label {path} does not exist; {_CURE}') from error
        except (OSError, SyntaxError, ValueError, AttributeError) as error:  # AttributeError: cv2 decoded None
            raise ValueError(f'label {path} cannot be decoded ({error}); is it truncated? {_CURE}') from error
        label = results['gt_seg_map']
        if label.ndim != 2:
            raise ValueError(f'label {path} has shape {label.shape}, expected (H, W) train ids; {_CURE}')
        if not self._valid[label].all():
            wrong = np.unique(label)
            wrong = wrong[~self._valid[wrong]].tolist()
            raise ValueError(
                f'label {path} holds class ids {wrong}; expected train ids 0..{self.num_classes - 1}, or {IGNORE} for '
                f'pixels to ignore; {_CURE}'
            )

    def __repr__(self) -> str:
        return f'{super().__repr__()[:-1]}, num_classes={self.num_classes})'
