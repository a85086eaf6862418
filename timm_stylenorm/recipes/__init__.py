"""Training procedures that need more than one pass for each batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import unknown
from .advbn import AdvBNRecipe
from .base import Part, Recipe
from .debiased import DebiasedRecipe
from .stylisers import STYLISERS, build_styliser

__all__ = [
    'RECIPES',
    'STYLISERS',
    'AdvBNRecipe',
    'DebiasedRecipe',
    'Part',
    'Recipe',
    'build_recipe',
    'build_styliser',
]

RECIPES: dict[str, Callable[..., Recipe]] = {
    'advbn': AdvBNRecipe,
    'debiased': DebiasedRecipe,
    'shape_biased': partial(DebiasedRecipe, gamma=1.0),
    'texture_biased': partial(DebiasedRecipe, gamma=0.0),
}


def build_recipe(recipe: str | Mapping[str, Any]) -> Recipe:
    """A recipe from its name, or from a dict with its name under `type` and its arguments.

    Raises:
        ValueError: Unknown recipe, or an argument out of range.
        TypeError: An argument that the recipe does not have.
    """
    if not isinstance(recipe, str) and not (isinstance(recipe, Mapping) and isinstance(recipe.get('type'), str)):
        raise ValueError(f"a recipe is a name, or a dict with its name under 'type', got {recipe!r}")
    options = {'type': recipe} if isinstance(recipe, str) else {k: v for k, v in recipe.items() if k != '_scope_'}
    name = options.pop('type')
    if name not in RECIPES:
        raise ValueError(unknown('recipe', name, RECIPES))
    known = list(inspect.signature(RECIPES[name]).parameters)
    for key in options:
        if key not in known:
            raise TypeError(unknown(f'argument of recipe {name!r}:', key, known))
    return RECIPES[name](**options)
