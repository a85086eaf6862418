"""Lists the sites of a model, and which methods fit it at their default sites: sites.py MODEL [--modules].

MODEL is a name of timm, or a config by its path or name. For a config, the sites are those of the part that a style
would change, such as the backbone of a segmentor, without the config's own style. For several models it prints a table
of the methods that fit.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from cli import load_config, parser
from mistakes import command

if TYPE_CHECKING:
    from torch import nn

    from timm_stylenorm.surgery.listing import SiteRow

WIDTH = 120


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('models', nargs='+', metavar='MODEL', help='such as resnet50, or a config')
    own.add_argument('--modules', action='store_true', help='show the names of all modules')
    return own.parse_args(argv)


def model_of(name: str) -> nn.Module:
    """The part of a model that a style would change, without weights.

    Raises:
        ValueError: there is neither a timm model nor a config with that name.
    """
    import timm

    import timm_stylenorm  # noqa: F401 (registers the names with a style)
    from timm_stylenorm.errors import unknown

    if timm.is_model(name):
        return timm.create_model(name)
    if Path(name).suffix == '.py' or Path(name).exists():
        return part_of(name)
    no_model = unknown('timm model', name, timm.list_models(), 'timm.list_models()')
    raise ValueError(f'{name!r} is no config (PATH.py), and an {no_model}')


def part_of(config: str) -> nn.Module:
    """The part of a config's model that a style would change."""
    cfg = load_config(parser('').parse_args([config]))
    from mmengine.registry import MODELS, init_default_scope

    from timm_stylenorm.classification import StyleNormClassifier

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    where = cfg.model.get('where', 'backbone')
    for key in ('style', 'recipe', 'init_checkpoint', 'pretrained'):
        cfg.model.pop(key, None)
    model = MODELS.build(cfg.model)
    if isinstance(model, StyleNormClassifier):
        return model.net
    return model.get_submodule(where) if where in dict(model.named_modules()) else model


def site_line(row: SiteRow, every: bool) -> str:
    """A site's name, channels and modules: all of them, or the first and the last."""
    channels = ', '.join(map(str, dict.fromkeys(row.channels))).replace('None', '?')
    names = list(row.modules)
    if len(names) > 3 and not every:
        names = [names[0], names[1], '...', names[-1]]
    head = f'  {row.name:15}{len(row.modules):3}  {channels:24}'
    return textwrap.fill(f'{head} {", ".join(names)}', WIDTH, subsequent_indent=' ' * 46, drop_whitespace=True)


def fit_table(names: list[str]) -> str:
    """Methods and models in Markdown: a cross where a method fits a model at its default sites."""
    from timm_stylenorm.surgery.listing import fitting_methods

    fits = {name: fitting_methods(model_of(name)) for name in names}
    rows = [f'| method | {" | ".join(f"`{Path(name).stem}`" for name in names)} |', '|---|' + ':-:|' * len(names)]
    for method in next(iter(fits.values())):
        cells = ['x' if fits[name][method] is None else '' for name in names]
        rows.append(f'| `{method}` | {" | ".join(cells)} |')
    return '\n'.join(rows)


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    from timm_stylenorm.surgery.listing import fitting_methods, list_sites

    if len(args.models) > 1:
        print(fit_table(args.models))
        return
    (name,) = args.models
    model = model_of(name)
    print(f'sites of {name} ({type(model).__name__}): number of modules, their channels, their names')
    for row in list_sites(model):
        print(site_line(row, args.modules))
    print('methods at their default sites')
    for name, reason in fitting_methods(model).items():
        said = 'fits' if reason is None else f'does not fit: {reason}'
        print(textwrap.fill(f'  {name:15}{said}', WIDTH, subsequent_indent=' ' * 17))


if __name__ == '__main__':
    main()
