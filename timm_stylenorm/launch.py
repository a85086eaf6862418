"""Run timm's own train.py or validate.py, unmodified, with style methods and recipes.

    python -m timm_stylenorm.launch [--style NAME [KEY=VALUE ...]]... [--recipe NAME [KEY=VALUE ...]] SCRIPT ARGS...

    python -m timm_stylenorm.launch --style padain p=0.05 train.py --data-dir images --model resnet50
    python -m timm_stylenorm.launch --style ibn_a --style mixstyle alpha=0.3 train.py --data-dir images --model resnet50
    python -m timm_stylenorm.launch train.py --data-dir images --model resnet50_snr
    python -m timm_stylenorm.launch --recipe advbn steps=3 train.py --data-dir images --model resnet50
    torchrun --nproc_per_node 2 -m timm_stylenorm.launch --recipe advbn train.py --data-dir images --model resnet50

SCRIPT is a file of a clone of timm, of the installed version; all arguments after it are passed to it. It runs as with
`python SCRIPT ARGS...`, but `timm.create_model` adds the style to each model and knows names such as `resnet50_snr`,
and timm's tasks add style losses and run recipes. Run validate.py with the same options as the training.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import logging
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .checkpoints import Fit
from .files import InUse
from .gates import separate_gates
from .host import script_patches
from .installed import needing
from .models import default_cfgs, register_variants
from .models.plain import admit_plain
from .options import key_values, read_recipe, read_style
from .patches import Patch, patched
from .recipes import Recipe, build_recipe
from .recipes.apply import recipe_of
from .recipes.base import Channels
from .saver import safe_saving
from .surgery.add import Style, add_style, style_layers
from .surgery.describe import describe_style
from .tasks import StyleTask, prepare
from .torch_host import remove_forward_hook
from .workers import end_with_torchrun

with needing(__name__):
    import timm
    import timm.models
    from timm.models import split_model_name_tag
    from timm.scheduler.scheduler import Scheduler
    from timm.task import TrainingTask

_logger = logging.getLogger(__name__)


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our arguments, and those from the script on, the first that is not an option, an option's value, or KEY=VALUE."""
    i = 0
    while i < len(argv) and argv[i] != '--' and (argv[i].startswith('-') or '=' in argv[i]):
        i += 2 if argv[i] in ('--style', '--recipe') else 1
    return argv[:i], argv[i + (argv[i : i + 1] == ['--']) :]


def _parse(argv: Sequence[str]) -> tuple[Style | None, Recipe | None, Mapping[str, Channels], Sequence[str]]:
    """The style, the recipe, its normalisation, and the script with its arguments; exits if something is wrong."""
    ours, script = _split(argv)
    parser = argparse.ArgumentParser(
        'python -m timm_stylenorm.launch',
        '%(prog)s [options] SCRIPT ARGS...',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--style', nargs='+', action='append', default=[], metavar=('NAME', 'KEY=VALUE'),
        help='a style method for every model that the script builds, its arguments and `sites`; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--recipe', nargs='+', metavar=('NAME', 'KEY=VALUE'),
        help='how to train, and `mean` and `std` of the images, by default as the script has them; a model like '
        'resnet50_advbn tells by itself',
    )  # fmt: skip
    for name in ('style', 'recipe'):
        text = f'the same as after --{name} NAME'
        parser.add_argument(f'--{name}-kwargs', nargs='+', default=[], metavar='KEY=VALUE', help=text)
    args = parser.parse_args(ours)
    try:
        style, recipe, images = _check(args)
    except (ValueError, TypeError, FileNotFoundError) as error:
        parser.error(str(error))
    if not script:
        parser.error('name the script to run: the path of train.py or validate.py in a clone of timm')
    if not Path(script[0]).is_file():
        parser.error(f'there is no script {script[0]!r}; timm has its scripts in its repository, not in the package')
    return style, recipe, {**_images_of(script[1:]), **images}, script


def _images_of(arguments: Sequence[str]) -> dict[str, Channels]:
    """The mean and standard deviation in the script's arguments: it does not pass them on, and recipes need them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ('mean', 'std'):
        parser.add_argument(f'--{name}', nargs='+', type=float)
    found, _ = parser.parse_known_args([str(word) for word in arguments])
    return {name: tuple(values) for name, values in vars(found).items() if values is not None}


def _check(args: argparse.Namespace) -> tuple[Style | None, Recipe | None, dict[str, Channels]]:
    for name, given in (('style', len(args.style)), ('recipe', int(bool(args.recipe)))):
        if getattr(args, f'{name}_kwargs') and given != 1:
            raise ValueError(f'--{name}-kwargs with{"out" if not given else " more than one"} --{name}')
    images: dict[str, Channels] = {}
    recipe = None
    if args.recipe:
        words = [*args.recipe[1:], *args.recipe_kwargs]
        images = key_values(word for word in words if word.startswith(('mean=', 'std=')))
        recipe = read_recipe([args.recipe[0], *(word for word in words if not word.startswith(('mean=', 'std=')))])
    style = read_style([[*words, *args.style_kwargs] for words in args.style])
    return style, build_recipe(recipe) if recipe else None, images


def _styling(
    create: Callable[..., nn.Module], style: Style | None, recipe: Recipe | None, images: Mapping[str, Channels]
) -> Callable[..., nn.Module]:
    """timm's `create_model` with a style and a recipe's layers, which must exist before the optimizer and EMA."""

    @functools.wraps(create)
    def create_model(*args: object, **kwargs: object) -> nn.Module:
        given = inspect.signature(create).bind(*args, **kwargs)
        path = given.arguments.pop('checkpoint_path', None)
        named = None
        if isinstance(style, Mapping):
            named = _styled_name(given.arguments['model_name'], str(style['type']))
        if named is not None:
            given.arguments['model_name'] = named
            given.arguments['kwargs'] = {**given.arguments.get('kwargs', {}), 'style': style}
        model = create(*given.args, **given.kwargs)
        told = describe_style(model)  # our timm names have logged it
        if style is not None and named is None:
            add_style(model, style)
        if recipe is not None:
            prepare(recipe, model, **images)
        admit_plain(model)
        if path:
            _load(model, path)
        text = describe_style(model)
        if text:
            model.register_forward_hook(_tell_missing_task)
        if text != told:
            _logger.info(text)
        return model

    return create_model


def _styled_name(name: str, method: str) -> str | None:
    """The name under which timm builds and saves a plain model with this method; None if there is none."""
    base, tag = split_model_name_tag(name)
    if ':' in name or not timm.is_model(base) or base in default_cfgs:
        return None
    (styled,) = register_variants(base, [method])
    return f'{styled}.{tag}' if tag else styled


def _load(model: nn.Module, path: str) -> None:
    """Load the weights of a plain model, or of a model with this style."""
    found = timm.models.load_checkpoint(model, path, strict=False, weights_only=True)
    if found is None:  # the model has read a file of its own kind
        return
    missing, unexpected = sorted(found.missing_keys), sorted(found.unexpected_keys)
    if missing or unexpected:
        raise ValueError(f'{path} does not fit: {Fit(missing, unexpected, [], {})}')


def _tell_missing_task(model: nn.Module, args: object, output: object) -> None:
    """A forward hook until a task has the model: losses that nobody adds and recipes that nobody runs are errors."""
    if model.training and torch.is_grad_enabled():
        left = [label for label, layer in style_layers(model) if layer.aux is not None or layer.logits is not None]
        if left or recipe_of(model):
            raise RuntimeError(
                f'the script trains without a task of timm.task, which would {"add" if left else "run"} '
                f'{", ".join(left) or "the recipe " + repr(recipe_of(model))}: use the train.py of timm >= 1.0.26'
            )


def _with_style(kind: type[TrainingTask], recipe: Recipe | None, images: Mapping[str, Channels]) -> type[TrainingTask]:
    """A subclass of one of timm's tasks that adds style losses and runs the recipe, by default that of its model."""

    class Launched(StyleTask, kind):  # type: ignore[valid-type, misc]
        def __init__(self, *args: object, **kwargs: Any) -> None:
            super().__init__(*args, **{'recipe': recipe, **images, **kwargs})
            for module in self.modules():
                remove_forward_hook(module, _tell_missing_task)

    Launched.__name__ = Launched.__qualname__ = f'StyleNorm{kind.__name__}'
    return Launched


def _separating(create: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """timm's `create_optimizer_v2`, with parameter groups of their own for the gates of BIN."""

    @functools.wraps(create)
    def create_optimizer_v2(model_or_params: object, *args: object, **kwargs: object) -> Optimizer:
        optimizer = create(model_or_params, *args, **kwargs)
        if isinstance(model_or_params, nn.Module):
            separate_gates(optimizer, model_or_params)
        return optimizer

    return create_optimizer_v2


def _following(create: Callable[..., tuple[Scheduler | None, int]], recipe: Recipe) -> Callable[..., object]:
    """timm's `create_scheduler_v2`, with a scheduler that tells a recipe how far the training is."""

    @functools.wraps(create)
    def create_scheduler_v2(*args: object, **kwargs: object) -> tuple[Scheduler | None, int]:
        scheduler, epochs = create(*args, **kwargs)
        per_epoch = inspect.signature(create).bind(*args, **kwargs).arguments.get('updates_per_epoch')
        recipe.set_progress(0.0)
        if scheduler is not None:
            scheduler.__class__ = _telling(type(scheduler), recipe, epochs, per_epoch or 0)
        return scheduler, epochs

    return create_scheduler_v2


def _telling(kind: type[Scheduler], recipe: Recipe, epochs: int, updates_per_epoch: int) -> type[Scheduler]:
    """A subclass of a scheduler that tells a recipe each new epoch; its state is that of its base class."""
    told = 0

    def tell(epoch: int) -> None:
        nonlocal told
        if epoch > told:
            told = epoch
            recipe.set_progress(min(epoch / epochs, 1.0))

    class Telling(kind):  # type: ignore[valid-type, misc]
        def step(self, epoch: int, *args: object, **kwargs: object) -> None:
            super().step(epoch, *args, **kwargs)
            tell(epoch)

        def step_update(self, num_updates: int, *args: object, **kwargs: object) -> None:
            super().step_update(num_updates, *args, **kwargs)
            if updates_per_epoch:  # a resumed run that schedules by updates has no other sign of its epoch
                tell(num_updates // updates_per_epoch)

    return Telling


@contextmanager
def styled_timm(
    style: Style | None = None, recipe: Recipe | None = None, images: Mapping[str, Channels] | None = None
) -> Iterator[None]:
    """Within, code that imports `timm.create_model` or the tasks of `timm.task` gets ours.

    Args:
        style: The style of all models, see `add_style`.
        recipe: For all models and tasks; by default the one that the layers of a model need.
        images: `mean` and `std` of the images; by default those of the model's `pretrained_cfg`.
    """
    images = images or {}
    create_model, create_optimizer, create_scheduler, tasks = script_patches()
    new: dict[Patch, Callable[..., object]] = {
        create_model: functools.partial(_styling, style=style, recipe=recipe, images=images),
        create_optimizer: _separating,
        tasks: functools.partial(_with_style, recipe=recipe, images=images),
    }
    if recipe is not None:
        new[create_scheduler] = functools.partial(_following, recipe=recipe)
    with patched(new), safe_saving():
        yield


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script; its exit code and its exceptions become ours."""
    style, recipe, images, script = _parse(sys.argv[1:] if argv is None else argv)
    folder = Path(script[0]).resolve().parent
    if (folder / 'timm').is_dir() and folder != Path(timm.__file__).resolve().parents[1]:
        _logger.warning(f'timm {timm.__version__} of {timm.__file__} runs, not the one next to {script[0]}')
    sys.argv = list(script)
    if not getattr(sys.flags, 'safe_path', False):  # python -P leaves the folder of a script out
        sys.path[0] = str(folder)
    end_with_torchrun()
    with styled_timm(style, recipe, images):
        try:
            runpy.run_path(script[0], run_name='__main__')
        except InUse as error:
            sys.stderr.write(f'error: {error}\n')
            raise SystemExit(2) from None


if __name__ == '__main__':
    # so hooks and tasks belong to a module that can be imported, and not to __main__
    import_module('timm_stylenorm.launch').main()
