"""The recipe: one YAML file that says what is deployed, and how."""

from .diagnostics import Diagnostic, RecipeError
from .recipe import LoadedRecipe, check_files, load_recipe, recipe_from_data
from .schema import Recipe

__all__ = [
    "Diagnostic",
    "LoadedRecipe",
    "Recipe",
    "RecipeError",
    "check_files",
    "load_recipe",
    "recipe_from_data",
]
