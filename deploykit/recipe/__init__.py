"""The recipe: one YAML file that says what is deployed, and how."""

from typing import TYPE_CHECKING, Any

from .diagnostics import Diagnostic, RecipeError
from .recipe import LoadedRecipe, check_files, check_recipe, load_recipe, recipe_from_bytes, recipe_from_data

if TYPE_CHECKING:
    from .schema import Recipe

__all__ = [
    "Diagnostic",
    "LoadedRecipe",
    "Recipe",
    "RecipeError",
    "check_files",
    "check_recipe",
    "load_recipe",
    "recipe_from_bytes",
    "recipe_from_data",
]


def __getattr__(name: str) -> Any:
    if name == "Recipe":  # building the models takes longer than checking a recipe
        from .schema import Recipe

        return Recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
