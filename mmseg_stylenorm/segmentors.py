"""mmseg's segmentors with two more keys, `style` and `recipe`.

    model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', sites=('stage1', 'stage2', 'stage3')))
    model = dict(type='StyleNormEncoderDecoder', recipe=dict(type='advbn', cut='stage1', steps=6))

`style` is a method's name, a dict whose `type` is the name, or a list of them, as for `timm_stylenorm.add_style`. It
restyles the backbone. The names of the backbone's own parameters stay, so `pretrained` and `init_cfg` go on working.
`recipe` is a training procedure, by its name or as such a dict, see `timm_stylenorm.recipes`: heads count as above the
backbone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import SampleList
from torch import Tensor, nn

from timm_stylenorm import add_style, style_losses
from timm_stylenorm.recipes import Part, Recipe, build_recipe
from timm_stylenorm.runner.host import image_format
from timm_stylenorm.runner.model import StyleLossMixin, warn_without_recipe
from timm_stylenorm.surgery.frozen import let_style_train
from timm_stylenorm.surgery.losses import set_classes


def _plain(style: Any) -> Any:
    """Config objects to plain dicts and lists, without mmengine's `_scope_` marks."""
    if isinstance(style, dict):
        return {key: _plain(value) for key, value in style.items() if key != '_scope_'}
    return [_plain(item) for item in style] if isinstance(style, list) else style


class StyledSegmentor(StyleLossMixin):
    """Adds `style` and `recipe` to an mmseg segmentor; put it before the segmentor in the bases.

    Recipes see the images as RGB: without `bgr_to_rgb` in the data preprocessor they are turned around for them.

    Args:
        *args: of the segmentor.
        style: name, dict or list of them; `None` collects only the losses that the backbone brings itself
            (`TIMMBackbone(model_name='resnet50_snr')`, SNR plugins).
        recipe: name or dict of a training procedure.
        **kwargs: of the segmentor.

    Raises:
        ValueError: an unknown method, site, recipe or option; the message names what is near.
    """

    backbone: nn.Module
    _bgr = False  # whether images are turned around for the recipe

    def __init__(self, *args: Any, style: Any = None, recipe: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = Recipe() if recipe is None else build_recipe(_plain(recipe))
        if style is not None:
            add_style(self.backbone, _plain(style))
        set_classes(self, self.num_classes, dense=True)  # type: ignore[arg-type, attr-defined]
        if recipe is None:
            warn_without_recipe(self)  # type: ignore[arg-type]
        else:
            shown = image_format(self.data_preprocessor)  # type: ignore[attr-defined]
            self._bgr = len(shown.mean) == 3 and not shown.shows_rgb
            mean, std = self._turned(shown.mean), self._turned(shown.std)
            self.recipe.prepare(self, self.backbone, mean, std)  # type: ignore[arg-type]
        self.backbone.train(self.backbone.training)  # it freezes stages of the base, with what was just added
        let_style_train(self.backbone, self.backbone.training)

    def train(self, mode: bool = True) -> Any:
        """The segmentor's own, in which backbones freeze stages; what style methods added there trains and acts on."""
        super().train(mode)  # type: ignore[misc]
        let_style_train(self.backbone, mode)
        return self

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Any]:
        """Losses of the heads and of the style layers.

        Args:
            inputs: images (N, 3, H, W).
            data_samples: with ground truth (1, H, W), where the decode head's `ignore_index` is ignored.

        Returns:
            mmseg's losses and `style.<method>.<site>`, already weighted. They are part of the total. The further
            passes of a recipe have its word before them: `adv.decode.loss_ce`, `adv.style.<method>.<site>`.
        """
        images = self._turned(inputs, 1)
        return self.recipe.losses(self, images, data_samples, self._forward_loss)  # type: ignore[arg-type]

    @property
    def ignore_index(self) -> int:
        """The label that the decode head, of several the last one, ignores."""
        heads: Any = self.decode_head  # type: ignore[attr-defined]
        head: Any = heads[-1] if isinstance(heads, nn.ModuleList) else heads
        return int(head.ignore_index)

    def _forward_loss(self, images: Tensor, parts: Sequence[Part]) -> dict[str, Any]:
        """Losses of one pass; see `Recipe.losses`.

        Raises:
            ValueError: more than one part: the heads of a segmentor take whole batches.
        """
        if len(parts) != 1:
            raise ValueError(
                f'a segmentor gives one loss for all images of a pass, and the recipe asks for {len(parts)}'
            )
        (part,) = parts
        losses = super().loss(self._turned(images, 1), part.target)  # type: ignore[misc]
        target = torch.cat([sample.gt_sem_seg.data for sample in part.target])
        style = style_losses(self, target, self.ignore_index)  # type: ignore[arg-type]
        losses = {**losses, **{f'style.{name}': value for name, value in style.items()}}
        return {part.label(name): value for name, value in losses.items()}

    def _turned(self, channels: Tensor, dim: int = 0) -> Tensor:
        """BGR to RGB, and back."""
        return channels.flip(dim) if self._bgr else channels


@MODELS.register_module()
class StyleNormEncoderDecoder(StyledSegmentor, EncoderDecoder):
    """mmseg's `EncoderDecoder` with the keys `style` and `recipe`."""


@MODELS.register_module()
class StyleNormCascadeEncoderDecoder(StyledSegmentor, CascadeEncoderDecoder):
    """mmseg's `CascadeEncoderDecoder` (OCRNet, PointRend) with the keys `style` and `recipe`."""
