"""Put a style or a recipe into a config of mmengine: what `--style` and `--recipe` of the tools do."""

from collections.abc import Callable, Mapping

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from ..methods import Method, get_method
from ..surgery.add import Style, as_specs
from .model import StyleLossMixin
from .styled import style_norm


def put_style(cfg: Config, style: Style | None = None, recipe: str | Mapping[str, object] | None = None) -> None:
    """Gives the model of a config a style, a recipe, or both, which replace the ones it has.

    A model type that takes neither is replaced by ours that does (such as `StyleNormEncoderDecoder`), or else by
    `StyleNorm` with the old type as `of`. What a method needs besides its layers is added, if a config can express it:
    see `COMPANIONS`.

    Args:
        cfg: The config; changed in place.
        style: See `timm_stylenorm.add_style`; None leaves it as it is.
        recipe: See `timm_stylenorm.recipes`; None leaves it as it is.

    Raises:
        ValueError: The config has no model, or the method is unknown.
    """
    if style is None and recipe is None:
        return
    if not cfg.get('model'):
        raise ValueError('--style and --recipe change the model of a config, and this one has none')
    _let_take_style(cfg)
    if recipe is not None:
        cfg.model.recipe = recipe
    if style is None:
        return
    cfg.model.style = style
    for spec in as_specs(style, {}):
        method = get_method(spec['type'])
        for companion in method.companions:
            if companion in COMPANIONS:
                COMPANIONS[companion](cfg, method)


def _let_take_style(cfg: Config) -> None:
    """Replaces the type of the model, if it has no keys `style` and `recipe`, by one that has."""
    model = cfg.model
    scope, _, name = model.type.rpartition('.') if isinstance(model.type, str) else ('', '', model.type.__name__)
    with MODELS.switch_scope_and_registry(scope or model.get('_scope_') or cfg.get('default_scope')) as registry:
        kind = registry.get(name) if isinstance(model.type, str) else model.type
        ours = registry.get(f'StyleNorm{name}')
    if kind is style_norm or (isinstance(kind, type) and issubclass(kind, StyleLossMixin)):
        return
    if ours is not None and issubclass(ours, kind):
        model.type = ours.__name__
        _import(cfg, ours.__module__.partition('.')[0])
    else:
        model.of = model.type
        model.type = 'StyleNorm'
        _import(cfg, 'timm_stylenorm.runner')


def _import(cfg: Config, module: str) -> None:
    """Adds the import of the module that registers the model, for whoever reads the config later."""
    imports = cfg.get('custom_imports') or {'imports': []}
    names = [imports['imports']] if isinstance(imports['imports'], str) else list(imports['imports'])
    if module not in names:
        cfg.custom_imports = {**imports, 'imports': [*names, module]}


def _separate_gates(cfg: Config, method: Method) -> None:
    wrapper = cfg.get('optim_wrapper')
    if wrapper and wrapper.get('constructor', 'DefaultOptimWrapperConstructor') == 'DefaultOptimWrapperConstructor':
        wrapper.constructor = 'GateOptimWrapperConstructor'


def _select_pairs(cfg: Config, method: Method) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    if 'ISWHook' not in {hook['type'] for hook in hooks}:
        replaceable = 'pipeline' in cfg.get('train_dataloader', {}).get('dataset', {})
        whole = {'pipeline': cfg.whole_pipeline} if replaceable and 'whole_pipeline' in cfg else {}
        cfg.custom_hooks = [*hooks, ConfigDict(type='ISWHook', **whole)]


def _run_recipe(cfg: Config, method: Method) -> None:
    cfg.model.setdefault('recipe', method.recipe)


COMPANIONS: dict[str, Callable[[Config, Method], None]] = {  # classes and domains are set by the models themselves
    'gates': _separate_gates,
    'pairs': _select_pairs,
    'recipe': _run_recipe,
}
