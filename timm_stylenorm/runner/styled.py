"""A model of OpenMMLab with two more keys, `style` and `recipe`.

    model = dict(type='StyleNorm', model=dict(type='mmdet.RetinaNet', backbone=..., ...), style='snr')
    model = dict(type='StyleNorm', of='mmdet.RetinaNet', backbone=..., style='snr')  # in a config that inherits

The result is an instance of a subclass of the model's class, with the model's own keys. `style` restyles the part named
by `where`; its losses, and the passes of a `recipe`, are part of what `loss` returns.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..recipes import LossTerm, Recipe, build_recipe
from ..surgery.add import add_style
from ..surgery.frozen import let_style_train
from ..surgery.losses import set_classes, style_losses
from .host import image_format
from .model import StyleLossMixin, log_style, warn_without_recipe


def plain(style: object) -> Any:
    """Config objects to plain dicts and lists, without mmengine's `_scope_` marks."""
    if isinstance(style, dict):
        return {key: plain(value) for key, value in style.items() if key != '_scope_'}
    return [plain(item) for item in style] if isinstance(style, list) else style


class StyledModel(StyleLossMixin):
    """Adds `style` and `recipe` to a model whose `loss(inputs, data_samples)` returns its losses; put it before the
    model among the bases.

    Recipes see images as RGB: if the network sees BGR, the channels are reversed for them.

    Args:
        *args: arguments of the model.
        style: name, dict or list of them, see `timm_stylenorm.add_style`; `None` only collects the losses of layers
            that the model has itself (`TIMMBackbone(model_name='resnet50_snr')`, SNR plugins).
        recipe: name or dict of a training procedure, see `timm_stylenorm.recipes`; modules that follow `where` count
            as after its cut.
        where: the sub-module that is restyled, in which sites are looked up; '' for the whole model.
        **kwargs: arguments of the model.

    Raises:
        ValueError: an unknown method, site, recipe, option or sub-module; the message names the nearest ones.
    """

    _bgr = False  # whether channels are reversed for the recipe

    def __init__(
        self, *args: object, style: object = None, recipe: object = None, where: str = 'backbone', **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = Recipe() if recipe is None else build_recipe(plain(recipe))
        part = _part_of(self, where) if style is not None or recipe is not None else self
        if style is not None:
            add_style(part, plain(style))
        set_classes(self, *self.known_classes())
        if recipe is None:
            warn_without_recipe(self)
        else:
            shown = image_format(self.data_preprocessor)
            self._bgr = len(shown.mean) == 3 and not shown.shows_rgb
            self.recipe.prepare(self, part, self._swap_rb(shown.mean), self._swap_rb(shown.std))
        log_style(self)
        part.train(part.training)  # freezes stages of the base, and what was just added in them
        let_style_train(part, part.training)

    def train(self, mode: bool = True) -> object:
        """The model's own, in which backbones freeze stages; what style methods added there still trains and acts."""
        super().train(mode)
        let_style_train(self, mode)
        return self

    def known_classes(self) -> tuple[int, bool]:
        """Number of classes, and whether labels are maps; 0 classes if images have no label, as in detection."""
        if hasattr(self, 'decode_head'):
            return self.num_classes, True
        classes = getattr(getattr(self, 'head', None), 'num_classes', None)
        return (classes if isinstance(classes, int) and not hasattr(self, 'bbox_head') else 0), False

    def loss(self, inputs: Tensor, data_samples: Sequence[BaseDataElement]) -> dict[str, Tensor]:
        """Losses of the model and of the style layers.

        Args:
            inputs: images (N, C, H, W).
            data_samples: as the model takes them; label maps `gt_sem_seg` and image labels `gt_label` are used.

        Returns:
            The model's losses and `style.<method>.<site>`, already weighted. They are part of the total. Losses of the
            further passes of a recipe have its prefix: `adv.decode.loss_ce`, `adv.style.<method>.<site>`.
        """
        images = self._swap_rb(inputs, 1)
        return self.recipe.losses(self, images, data_samples, self._forward_loss)

    @property
    def ignore_index(self) -> int | None:
        """The label that the decode head (the last one, if there are several) ignores; None without a decode head."""
        head = getattr(self, 'decode_head', None)
        return getattr(head[-1] if isinstance(head, nn.ModuleList) else head, 'ignore_index', None)

    def _forward_loss(self, images: Tensor, parts: Sequence[LossTerm]) -> dict[str, Tensor]:
        """Losses of one pass; see `Recipe.losses`.

        Raises:
            ValueError: more than one part: the heads of these models take whole batches.
        """
        if len(parts) != 1:
            raise ValueError(
                f'{type(self).__name__} gives one loss for all images of a pass, and the recipe asks for {len(parts)}'
            )
        (part,) = parts
        losses = super().loss(self._swap_rb(images, 1), part.target)
        style = style_losses(self, labels_of(part.target), self.ignore_index)
        losses = {**losses, **{f'style.{name}': value for name, value in style.items()}}
        return {part.label(name): value for name, value in losses.items()}

    def _swap_rb(self, channels: Tensor, dim: int = 0) -> Tensor:
        """BGR to RGB, and back."""
        return channels.flip(dim) if self._bgr else channels


def labels_of(samples: object) -> Tensor | None:
    """Label maps (N, H, W) or image labels (N,) of OpenMMLab's data samples; None where they have neither.

    A loss over classes does not take several labels for one image, so such samples count as having none.
    """
    samples = list(samples) if isinstance(samples, Sequence) else []
    if samples and all('gt_sem_seg' in sample for sample in samples):
        return torch.cat([sample.gt_sem_seg.data for sample in samples])
    if samples and all('gt_label' in sample and sample.gt_label.numel() == 1 for sample in samples):
        return torch.cat([sample.gt_label.reshape(1) for sample in samples])
    return None


def _part_of(model: nn.Module, where: str) -> nn.Module:
    try:
        return model.get_submodule(where)
    except AttributeError:
        names = ', '.join(name for name, _ in model.named_children())
        raise ValueError(f'where={where!r}: {type(model).__name__} has no such sub-module; it has {names}') from None


def styled_class(kind: type) -> type:
    """The subclass of a model's class that takes `style` and `recipe`; the same one for the same class.

    Raises:
        TypeError: the class has no method `loss(inputs, data_samples)`.
    """
    if issubclass(kind, StyledModel):
        return kind
    name = f'{_PREFIX}{kind.__module__}.{kind.__qualname__}'.replace('.', '__')
    if name not in globals():
        if not callable(getattr(kind, 'loss', None)):
            raise TypeError(f'StyleNorm: {kind.__name__} has no method loss(inputs, data_samples)')
        content = {'__module__': __name__, '__doc__': f'`{kind.__name__}` with the keys of `StyledModel`.'}
        made = type(f'StyleNorm{kind.__name__}', (StyledModel, kind), content)
        made.__qualname__ = name  # by which pickle finds it, see `__getattr__`
        globals()[name] = made
    return globals()[name]


_PREFIX = 'StyleNorm_'


def __getattr__(name: str) -> object:
    """Makes the classes of models that were pickled in another process."""
    path = name.removeprefix(_PREFIX).replace('__', '.')
    module, _, kind = path.rpartition('.')
    if name.startswith(_PREFIX) and module:
        return styled_class(getattr(import_module(module), kind))
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


@MODELS.register_module(name='StyleNorm')
def style_norm(
    model: Mapping[str, object] | None = None,
    of: str | type | None = None,
    style: object = None,
    recipe: object = None,
    where: str = 'backbone',
    **kwargs: object,
) -> nn.Module:
    """Builds a model of any scope with a style; registered as `StyleNorm`.

    Args:
        model: its config.
        of: instead of `model`, its type, with the other keys of its config as `**kwargs`.
        style: see `StyledModel`.
        recipe: see `StyledModel`.
        where: see `StyledModel`.
        **kwargs: further keys of the model's config, such as the `data_preprocessor` that the Runner adds.

    Raises:
        ValueError: both `model` and `of`, or neither.
        KeyError: an unknown type.
    """
    if (model is None) == (of is None):
        raise ValueError("StyleNorm: give the model's config as `model`, or its type as `of` with its keys beside it")
    cfg: dict[str, Any] = {**(model or {'type': of}), **kwargs}
    kind, scope = cfg.pop('type'), cfg.pop('_scope_', None)
    if isinstance(kind, str) and '.' in kind:
        scope, _, kind = kind.rpartition('.')
    current = DefaultScope.get_current_instance()
    with MODELS.switch_scope_and_registry(scope or (current.scope_name if current else None)) as registry:
        found = registry.get(kind) if isinstance(kind, str) else kind
        if found is None:
            raise KeyError(f'StyleNorm: {kind!r} is no model of scope {registry.scope!r}')
        built = styled_class(found)(**cfg, style=style, recipe=recipe, where=where)
    return built
