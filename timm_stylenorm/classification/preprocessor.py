"""From uint8 images to what the network sees: normalisation, Mixup, CutMix and random erasing, on the device."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from ..runner.host import ImageFormat


@MODELS.register_module()
class ClsPreprocessor(BaseDataPreprocessor):
    """Normalises images and, in training, mixes them as timm's `Mixup` does.

    Takes dicts with `inputs` (N, C, H, W) or a list of (C, H, W), uint8 or float in [0, 1], and `targets`: N labels, or
    (N, K) class probabilities, or, outside training, none. Returns float32 inputs `(x - mean) / std`, and as targets
    int64 labels, or probabilities after Mixup. Several views of each image (N, S, C, H, W), see `AugSplits`, become
    S * N images, starting with the first view of every image; the labels are repeated in the same order. Mixup, CutMix
    and erasing draw from numpy's and Python's generators; `RNGStateHook` saves both.

    Args:
        mean: mean of each channel, for values in [0, 1]; `StyleNormClassifier` fills in its model's own.
        std: standard deviation, likewise.
        num_classes: K; `StyleNormClassifier` fills it in. Labels outside [0, K) are an error.
        mixup: alpha of Mixup; 0 turns it off.
        cutmix: alpha of CutMix; 0 turns it off.
        label_smoothing: label smoothing of the mixed targets; `StyleNormClassifier` fills in its own.
        erasing: probability of timm's random erasing, per image; erased pixels are drawn from a normal distribution.
        **mixing: more arguments of timm's `Mixup`: `prob` (share of the batches that are mixed), `switch_prob` (share
            of CutMix among them if both are on), `mode` ('batch', 'pair' or 'elem': what shares one mixing factor).
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        num_classes: int | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        label_smoothing: float = 0.0,
        erasing: float = 0.0,
        **mixing: object,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f'ClsPreprocessor: one mean and one positive std per channel, got mean={mean}, std={std}')
        if mixing.get('mode', 'batch') not in ('batch', 'pair', 'elem'):
            raise ValueError(f"ClsPreprocessor: mode is 'batch', 'pair' or 'elem', got {mixing['mode']!r}")
        if mixing and not (mixup or cutmix):
            raise ValueError(f'ClsPreprocessor: {", ".join(mixing)} without mixup or cutmix')
        if (mixup or cutmix) and not num_classes:
            raise ValueError('ClsPreprocessor: mixup and cutmix need num_classes')
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.num_classes = num_classes
        self.mixup = None
        if mixup or cutmix:
            smoothing = dict(label_smoothing=label_smoothing, num_classes=num_classes)
            self.mixup = Mixup(mixup, cutmix, **smoothing, **mixing)
        self.erasing = erasing

    def image_format(self) -> ImageFormat:
        """Pillow's RGB, normalised; see `ImageFormat`."""
        return ImageFormat(False, True, self.mean.flatten(), self.std.flatten())

    def forward(self, data: dict, training: bool = False) -> dict:
        """A dict with the keys of `data`; `inputs` and `targets` are changed as the class describes."""
        inputs, targets = data['inputs'], data.get('targets')
        inputs = inputs if isinstance(inputs, Tensor) else torch.stack(tuple(inputs))
        if targets is not None and not isinstance(targets, Tensor):
            targets = torch.stack([torch.as_tensor(target) for target in targets])
        if targets is not None and not targets.is_floating_point():
            self._check_labels(targets)
        views = inputs.shape[1] if inputs.dim() == 5 else 1
        if views > 1:
            if training and self.mixup is not None:
                raise ValueError('ClsPreprocessor: Mixup and CutMix do not go with several views of each image')
            inputs = inputs.transpose(0, 1).flatten(0, 1)
            targets = targets if targets is None else targets.repeat(views, *(1,) * (targets.dim() - 1))
        inputs, targets = self.cast_data((inputs, targets))
        scale = 1 / 255 if inputs.dtype == torch.uint8 else 1.0
        inputs = (inputs.float() * scale - self.mean) / self.std
        if training and self.mixup is not None:
            inputs, targets = self._mix(inputs, targets)
        if training and self.erasing:
            inputs = RandomErasing(self.erasing, mode='pixel', device=inputs.device)(inputs)
        return dict(data, inputs=inputs, targets=targets)

    def _mix(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if len(inputs) % 2:
            raise ValueError(
                f'Mixup pairs the images of a batch, and this one has {len(inputs)}: choose an even batch_size and set '
                f'drop_last=True in train_dataloader'
            )
        if targets.is_floating_point():
            raise ValueError('Mixup makes soft labels from class indices, but the data set gives soft labels already')
        return self.mixup(inputs, targets)  # type: ignore[misc]

    def _check_labels(self, targets: Tensor) -> None:
        """Checks the labels before they move to the device: a check there would wait for it in every iteration."""
        if self.num_classes is None:
            return
        wrong = targets[(targets < 0) | (targets >= self.num_classes)]
        if len(wrong):
            raise ValueError(
                f'{len(wrong)} of {len(targets)} labels of this batch are outside 0..{self.num_classes - 1}: '
                f'{sorted(set(wrong.tolist()))}. The model has num_classes={self.num_classes}; correct that, or the '
                f'data set (timm gives -1 to an image without label)'
            )
