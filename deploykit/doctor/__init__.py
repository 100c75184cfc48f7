"""The checks that judge a machine, and every recipe on it."""

from deploykit.doctor.check import Check, CheckSpec, Context, Finding
from deploykit.doctor.recipes import RecipeRow
from deploykit.doctor.run import CHECKS, Report, examine

__all__ = ["CHECKS", "Check", "CheckSpec", "Context", "Finding", "RecipeRow", "Report", "examine"]
