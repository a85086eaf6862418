"""Lists the style methods, or explains one: methods.py [METHOD]."""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from typing import TYPE_CHECKING

import cli  # noqa: F401 (a source tree works without being installed)
from mistakes import command

if TYPE_CHECKING:
    from timm_stylenorm.methods import Method

WIDTH = 120


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__)
    own.add_argument('method', nargs='?', help='default: list all')
    return own.parse_args(argv)


def argument_docs(layer: type) -> dict[str, str]:
    """Argument -> its lines in the docstring of the class, or of the nearest base class that documents any."""
    found: dict[str, str] = {}
    for kind in layer.__mro__:
        section = re.search(r'^Args:\n((?: +.*\n?|\n)*)', inspect.cleandoc(vars(kind).get('__doc__') or ''), re.M)
        for entry in re.findall(r'^    (\w.*?)(?=\n    \w|\Z)', section[1] if section else '', re.M | re.S):
            names, _, text = entry.partition(':')
            for name in names.split(','):
                found.setdefault(name.strip(), ' '.join(text.split()))
    return found


def block(title: str, lines: list[str]) -> list[str]:
    """A title and indented lines; nothing without lines."""
    return [f'{title}:', *(textwrap.indent(line, '  ') for line in lines)] if lines else []


def arguments(method: Method) -> list[str]:
    """Lines of `name=default` and the docstring, one for each argument."""
    docs = argument_docs(method.layer)
    lines = []
    for name, default in method.defaults.items():
        given = f'{name}={default!r}'
        wrapped = textwrap.wrap(docs.get(name, ''), WIDTH - 28, break_long_words=False)
        lines += [f'{given:24}{wrapped[0] if wrapped else ""}', *(' ' * 24 + line for line in wrapped[1:])]
    return lines


def options_of(recipe: str) -> dict[str, str]:
    """Arguments for a recipe in an example, with a styliser that needs no files."""
    from timm_stylenorm.recipes import RECIPES

    return {'styliser': 'fourier'} if 'styliser' in inspect.signature(RECIPES[recipe]).parameters else {}


def examples(name: str, method: Method) -> dict[str, list[str]]:
    """Host -> lines of Python or shell code."""
    key, value = next(iter(method.defaults.items()), ('sites', method.sites))
    given = f'{key}={value!r}'
    if method.recipe is None:
        return {
            'timm': [f"timm.create_model('resnet50_{name}', style=dict({given}))"],
            'mmsegmentation': [f"model = dict(type='StyleNormEncoderDecoder', style=dict(type={name!r}, {given}))"],
            'any module': [f'timm_stylenorm.add_style(model, {name!r}, {given})'],
        }
    options = options_of(method.recipe)
    words = ''.join(f'{key}={value} ' for key, value in options.items())
    spec = ', '.join(f'{key}={value!r}' for key, value in {'type': method.recipe, **options}.items())
    return {
        'timm': [
            f'python -m timm_stylenorm.launch --recipe {method.recipe} {words}train.py --model resnet50_{name} ARGS'
        ],
        'mmsegmentation': [f"model = dict(type='StyleNormEncoderDecoder', recipe=dict({spec}))"],
        'any module': [
            f'recipe = timm_stylenorm.recipes.build_recipe(dict({spec}))',
            'recipe.prepare(model)  # once; then recipe.losses(model, images, target, forward_loss) for each batch',
        ],
    }


def explanation(name: str) -> str:
    """The text about a method from the table and the docstrings.

    Raises:
        ValueError: there is no such method; the message names the most similar one.
    """
    from timm_stylenorm.layers.companions import COMPANIONS
    from timm_stylenorm.methods import get_method

    method = get_method(name)
    needs = [f'{key}: without it {COMPANIONS[key].effect}; {COMPANIONS[key].cure}' for key in method.companions]
    lines = [f'{name}: {method.summary}', f'paper: {method.paper}']
    lines += [f'default sites: {", ".join(method.sites)}; `stylenorm sites MODEL` lists those of a model']
    lines += [f'recipe: {method.recipe}, without which its layers change nothing' if method.recipe else 'recipe: none']
    lines += block('arguments and their defaults', arguments(method))
    lines += block('needs', [textwrap.fill(text, WIDTH - 4, subsequent_indent='  ') for text in needs])
    for host, example in examples(name, method).items():
        lines += block(f'example for {host}', example)
    return '\n'.join(lines)


def table() -> str:
    """One line for each method."""
    from timm_stylenorm.methods import ROWS

    rows = [f'{name:12}{method.summary}' for name, method in ROWS.items()]
    return '\n'.join([*rows, '', '`stylenorm methods NAME` explains one.'])


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    print(table() if args.method is None else explanation(args.method))


if __name__ == '__main__':
    main()
