"""Pure functions `(Recipe, Facts, Machine) -> Plan`: engine choice, memory in bytes, and every reason.

The types are imported at once; `make_plan` when it is asked for, so that the engine process, which only reads a
plan, doesn't load the recipe's schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploykit.plan.errors import PlanError
from deploykit.plan.types import Candidate, Change, Decision, MemoryItem, Plan

if TYPE_CHECKING:
    from deploykit.plan.make import make_plan

__all__ = ["Candidate", "Change", "Decision", "MemoryItem", "Plan", "PlanError", "make_plan"]


def __getattr__(name: str) -> Any:
    if name == "make_plan":
        from deploykit.plan.make import make_plan

        return make_plan
    raise AttributeError(name)
