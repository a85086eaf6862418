"""Training procedures that need more than one pass for each batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from .advbn import AdvBNRecipe
from .base import LossTerm, Recipe, build
from .consistency import ConsistencyRecipe
from .debiased import DebiasedRecipe
from .stylisers import STYLISERS, build_styliser

__all__ = [
    'RECIPES',
    'STYLISERS',
    'AdvBNRecipe',
    'ConsistencyRecipe',
    'DebiasedRecipe',
    'LossTerm',
    'Recipe',
    'build_recipe',
    'build_styliser',
]

RECIPES: dict[str, Callable[..., Recipe]] = {
    'advbn': AdvBNRecipe,
    'crossnorm_consistency': ConsistencyRecipe,
    'debiased': DebiasedRecipe,
    'shape_biased': partial(DebiasedRecipe, gamma=1.0),
    'texture_biased': partial(DebiasedRecipe, gamma=0.0),
}


def build_recipe(recipe: str | Mapping[str, object]) -> Recipe:
    """A recipe from its name, or from a dict with its name under `type` and its arguments.

    Raises:
        ValueError: Unknown recipe, or an argument out of range.
        TypeError: An argument that the recipe does not have.
    """
    return build('recipe', RECIPES, recipe)
