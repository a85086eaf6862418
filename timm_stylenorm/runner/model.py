"""What both hosts' models share: style losses in the total loss, and the model without its wrappers."""

import logging
from typing import TYPE_CHECKING, cast

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..recipes.apply import recipe_of
from ..surgery.describe import describe_style

if TYPE_CHECKING:
    from mmengine.model import BaseModel as Model
else:
    Model = object  # the mixins' base; the model's class comes after them


class StyleLossMixin(Model):
    """For an mmengine model whose `loss()` returns style losses: put it before the model among the bases."""

    def parse_losses(self, losses: dict[str, object]) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds the losses `style.*`, and those of further passes such as `adv.style.*`, to the total.

        mmengine sums only keys that contain 'loss' and merely logs the others.
        """
        total, log = super().parse_losses(losses)
        style = [value for key, value in log.items() if 'style' in key.split('.') and 'loss' not in key]
        if style:
            total = log['loss'] = total + sum(style)
        return total, log


def log_style(model: nn.Module) -> None:
    """Log one line about the style layers of a model; nothing for a model without any."""
    text = describe_style(model)
    if text:
        print_log(text, 'current')


def warn_without_recipe(model: nn.Module) -> None:
    """Warn if a model has layers of a recipe, and its host was not given one."""
    recipe = recipe_of(model)
    if recipe is not None:
        text = f"the layers of {recipe!r} change nothing by themselves: to train with them, set model.recipe='{recipe}'"
        print_log(text, 'current', logging.WARNING)


def bare_model(model: nn.Module) -> nn.Module:
    """The model without its wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast('nn.Module', model.module)
    return model
