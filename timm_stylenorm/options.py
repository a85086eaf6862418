"""The options `--style NAME [KEY=VALUE ...]` (once for each method) and `--recipe NAME [KEY=VALUE ...]`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .methods import get_method
from .recipes import build_recipe
from .surgery.add import Style


def key_values(words: Iterable[str]) -> dict[str, Any]:
    """['p=0.05', 'sites=stage1'] -> {'p': 0.05, 'sites': 'stage1'}; values are Python literals where they can be.

    `ParseKwargs` of timm 1.0.26 fails for values such as `layer?.*` and `a=b`.

    Raises:
        ValueError: A word without an equals sign.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition('=')
        if not equals:
            raise ValueError(f'expected KEY=VALUE, got {word!r}')
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    return found


def read_style(given: Iterable[Sequence[str]]) -> Style | None:
    """The `style` that these options (a list of words for each) name: a dict, a list of dicts for several, or None.

    Raises:
        ValueError: An unknown method, or a word without an equals sign.
        TypeError: An argument that the method does not have.
    """
    styles = [_read('--style', words) for words in given]
    for style in styles:
        get_method(style['type']).check_kwargs(style['type'], style)
    return styles if len(styles) > 1 else next(iter(styles), None)


def read_recipe(words: Sequence[str] | None) -> dict[str, object] | None:
    """The `recipe` that this option names, as a dict; None without words.

    Raises:
        ValueError: An unknown recipe, a value out of range, or a word without an equals sign.
        TypeError: An argument that the recipe does not have.
        FileNotFoundError: The recipe reads files that are not there.
    """
    if not words:
        return None
    recipe = _read('--recipe', words)
    build_recipe(recipe)
    return recipe


def _read(option: str, words: Sequence[str]) -> dict[str, Any]:
    name, *rest = words
    try:
        return {**key_values(rest), 'type': name}
    except ValueError as error:
        raise ValueError(f'{option} {name}: {error}; name files and configs before the option') from None


def slug(style: Style | None, recipe: str | Mapping[str, object] | None = None) -> str:
    """A name for files: [{'type': 'mixstyle', 'alpha': 0.1}, 'ibn_a'] -> 'mixstyle-alpha0.1_ibn_a'; '' for nothing."""
    specs = [*(style if isinstance(style, list) else [style]), recipe]
    return '_'.join(_slug({'type': spec} if isinstance(spec, str) else spec) for spec in specs if spec)


def _slug(spec: Mapping[str, object]) -> str:
    words = [f'{key}{value}' for key, value in spec.items() if key != 'type']
    return '-'.join(re.sub(r'[^\w.]+', '-', word).strip('-.') for word in (str(spec['type']), *words))
