"""The recipe: a whole experiment in one typed file."""

from med42.recipe.load import (
    canonical_recipe,
    dump_recipe,
    load_recipe,
    parse_recipe,
    recipe_digest,
    shipped_recipes,
)
from med42.recipe.schema import Recipe

__all__ = [
    "Recipe",
    "canonical_recipe",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
    "recipe_digest",
    "shipped_recipes",
]
