"""The checks that judge a machine, and every recipe on it."""

from deploykit.doctor.catalogue import CATEGORIES, CHECKS
from deploykit.doctor.check import Check, CheckSpec, Context, Finding
from deploykit.doctor.recipes import RecipeRow, Variant
from deploykit.doctor.run import Report, examine

__all__ = [
    "CATEGORIES",
    "CHECKS",
    "Check",
    "CheckSpec",
    "Context",
    "Finding",
    "RecipeRow",
    "Report",
    "Variant",
    "examine",
]
