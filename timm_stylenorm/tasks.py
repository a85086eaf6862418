"""timm's training tasks with style losses and recipes, which `timm_stylenorm.launch` puts into timm's train.py.

    task = StyleNormTask(timm.create_model('resnet50_snr'), nn.CrossEntropyLoss(), device=device)
    task = AdvBNTask(timm.create_model('resnet50', pretrained=True), nn.CrossEntropyLoss(), cut='stage1', steps=6)

Distributed training, EMA, accumulation, compilation and checkpoints go through timm's `TrainingTask` as usual, and a
checkpoint has the keys of the model.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .installed import needing
from .layers import AdvBN
from .recipes import LossTerm, Recipe, build_recipe
from .recipes.apply import Criterion, part_losses, recipe_of
from .recipes.base import Channels
from .recipes.replay import Replay
from .surgery.add import style_layers
from .surgery.losses import set_classes, style_losses
from .torch_host import raise_recompile_limit

with needing(__name__):
    from timm.data import resolve_model_data_config
    from timm.models import group_parameters
    from timm.task import ClassificationTask, TrainingTask
    from timm.utils import unwrap_model

__all__ = ['AdvBNTask', 'DebiasedTask', 'RecipeModule', 'StyleNormTask', 'StyleTask', 'prepare']

_logger = logging.getLogger(__name__)


def prepare(recipe: Recipe, model: nn.Module, mean: Channels | None = None, std: Channels | None = None) -> None:
    """Call `recipe.prepare`, by default with the normalisation of the timm model; see there."""
    config = resolve_model_data_config(model) if mean is None or std is None else {}
    recipe.prepare(model, mean=config['mean'] if mean is None else mean, std=config['std'] if std is None else std)


class RecipeModule(nn.Module):
    """The module that DDP wraps: returns the losses of a recipe, or the model's logits without target and criterion.

    timm unwraps modules with a child `module`, so that EMA, checkpoints and evaluation see the model's own keys.

    Args:
        model: Prepared by the recipe.
        recipe: Called once for each batch.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.module, self.recipe = model, recipe

    def forward(self, input: Tensor, target: Tensor | None = None, criterion: Criterion | None = None) -> object:
        """Logits (N, K), or the losses by name and the logits of the first pass.

        Args:
            input: Images (N, C, H, W), normalised.
            target: Labels, as the criterion takes them.
            criterion: `criterion(logits, target)` returns a scalar.
        """
        if target is None or criterion is None:
            return self.module(input)
        outputs: list[Tensor] = []

        def forward_loss(images: Tensor, parts: Sequence[LossTerm]) -> dict[str, Tensor]:
            output = self.module(images)
            if not outputs:
                outputs.append(output[parts[0].rows])
            return part_losses(self.module, output, parts, criterion)

        return self.recipe.losses(self.module, input, target, forward_loss), outputs[0]

    def no_weight_decay(self) -> set[str]:
        """For timm's optimizers, as in timm's distillation tasks."""
        model: object = self.module
        names = model.no_weight_decay() if hasattr(model, 'no_weight_decay') else ()
        return {f'module.{name}' for name in names}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """For timm's layer-wise learning rates."""
        matcher = cast('Callable[..., dict]', self.module.group_matcher)
        groups = group_parameters(self.module, matcher(coarse=coarse), reverse=True)
        return lambda name: groups[name.removeprefix('module.')]


class StyleTask(TrainingTask):
    """A base class that precedes one of timm's tasks, and adds the style losses of the model that the task trains.

    The result then has each of them as 'style.<label>', and timm's own loss as 'loss_cls'; for a model without style
    losses, the result is timm's, bit for bit. With a recipe, the result has the losses of all passes by their names.

    Args:
        *args: See timm's task.
        recipe: A recipe, its name, or a dict with its name under `type`; by default the one that the layers of the
            model need ('advbn' for `resnet50_advbn`), or none. It adds its layers to the model if they are missing: the
            optimizer must then be made after the task.
        mean: The images are (values in [0, 1] - mean) / std; by default as the model's `pretrained_cfg` says.
        std: See `mean`.
        **kwargs: See timm's task.

    Raises:
        ValueError: The class head of a style layer does not fit the model, or the task has several labels for each
            image; a recipe is used in a distillation task, or for a model in DDP; see also `build_recipe` and
            `Recipe.prepare`.
        TypeError: An argument that the recipe does not have.
    """

    def __init__(
        self,
        *args: Any,
        recipe: str | Mapping[str, object] | Recipe | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._place = 'trainable_module' if hasattr(self, 'trainable_module') else 'model'  # timm < 1.0.27
        model = unwrap_model(self._trained)
        several = getattr(self, 'multi_label', False)  # labels for each image
        if several or hasattr(model, 'num_classes'):
            set_classes(model, 0 if several else model.num_classes, dense=False)
        recipe = recipe_of(model) if recipe is None else recipe
        self.recipe = recipe if isinstance(recipe, Recipe | None) else build_recipe(recipe)
        if self.recipe is None:
            return
        if not isinstance(self, ClassificationTask):
            raise ValueError(f'{type(self).__name__}: recipes learn from labels, not from a teacher')
        if isinstance(self._trained, DistributedDataParallel):
            raise ValueError('a recipe runs within DDP: give the task the bare model, then call prepare_distributed')
        prepare(self.recipe, model, mean, std)
        setattr(self, self._place, RecipeModule(model, self.recipe))

    @property
    def _trained(self) -> nn.Module:
        """The model, or its wrapper: `RecipeModule`, DDP."""
        return getattr(self, self._place)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The result of timm's task for a batch; 'loss' is the sum of all losses."""
        if self.recipe is not None:
            losses, output = self._trained(input, target, self.criterion)
            counted = [v for k, v in losses.items() if 'loss' in k or 'style' in k.split('.')]
            return {'loss': torch.as_tensor(sum(counted)), 'output': output, **losses}
        result: dict[str, Tensor] = super().forward(input, target)
        terms = {f'style.{name}': term for name, term in style_losses(self._trained, target).items()}
        if not terms:
            return result
        return {**result, 'loss': sum(terms.values(), result['loss']), 'loss_cls': result['loss'], **terms}

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs: object) -> Any:
        """See timm's method; on the CPU, DDP gets no device ids, since it accepts none there."""
        cpu = all(p.device.type == 'cpu' for p in self._trained.parameters())
        return super().prepare_distributed(None if cpu else device_ids, **ddp_kwargs)

    def compile(self, backend: str = 'inductor', mode: str | None = None, **kwargs: object) -> Any:
        """See timm's method; with a recipe, compile only the modules after its cut, in place, and log their names."""
        if self.recipe is None:
            return super().compile(backend, mode, **kwargs)
        parts = dict(_compilable(self._trained.get_submodule('module')))
        # All parts share code, through which four kinds of passes go, with two batch sizes; and dynamo would take the
        # different shapes of the parts for one that changes.
        raise_recompile_limit(8 * len(parts))
        for part in parts.values():
            part.compile(backend=backend, mode=mode, **{'dynamic': False, **kwargs})
        _logger.info(f'{type(self).__name__}: compiled {", ".join(parts)}; what comes before the cut is not')
        return self._trained


def _compilable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules after the cut of a model: the forward of those before it changes from pass to pass."""
    lower = {m for _, layer in style_layers(model) if isinstance(layer, AdvBN) for m in Replay(model, layer).lower}

    def outermost(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            inside = not lower.isdisjoint(child.modules())
            if inside or isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield from () if child in lower else outermost(child, f'{path}{name}.')
            elif next(child.parameters(), None) is not None:
                yield path + name, child

    yield from outermost(model, '')


class StyleNormTask(StyleTask, ClassificationTask):
    """timm's `ClassificationTask` with style losses and recipes; takes its arguments and those of `StyleTask`."""


class _NamedRecipe(StyleNormTask):
    name: str

    def __init__(self, model: nn.Module, *args: object, **kwargs: Any) -> None:
        hosts = {*inspect.signature(ClassificationTask).parameters, 'mean', 'std'}
        options = {k: kwargs.pop(k) for k in list(kwargs) if k not in hosts}
        super().__init__(model, *args, recipe={'type': self.name, **options}, **kwargs)


class AdvBNTask(_NamedRecipe):
    """`StyleNormTask` with the recipe `advbn`, whose arguments (`cut`, `steps`, ...) it takes by name."""

    name = 'advbn'


class DebiasedTask(_NamedRecipe):
    """`StyleNormTask` with the recipe `debiased`, whose arguments it takes by name."""

    name = 'debiased'
