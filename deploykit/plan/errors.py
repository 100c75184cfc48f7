"""A recipe that this machine can't honour: exit code 3, with everything that led there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deploykit.errors import EXIT_NO_FIT, DeploykitError
from deploykit.plan.text import format_bytes
from deploykit.plan.types import Candidate, Change, MemoryItem

if TYPE_CHECKING:
    from deploykit.plan.outlook import Outlook


class PlanError(DeploykitError):
    """`candidates` are the engines in the order of preference, `memory` the table that doesn't fit `memory_limit`
    bytes on `device_name`, and `fixes` the changes that would do, cheapest first; where it is memory that is short,
    `changes` says of each what it costs and what it gives. `outlook` is what a model would take that no engine runs;
    its memory table is the error's then."""

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        fixes: Sequence[str] = (),
        candidates: Sequence[Candidate] = (),
        memory: Sequence[MemoryItem] = (),
        memory_limit: int = 0,
        changes: Sequence[Change] = (),
        device_name: str = "",
        outlook: Outlook | None = None,
    ) -> None:
        self.fixes = tuple(fixes)
        self.candidates = tuple(candidates)
        self.outlook = outlook
        self.memory = tuple(memory) if outlook is None else outlook.memory
        self.memory_limit = memory_limit
        self.changes = tuple(changes)
        self.device_name = device_name
        super().__init__(what, where=where, why=why, fix="; or ".join(fixes) or None, exit_code=EXIT_NO_FIT)

    def add(self, change: Change) -> None:
        """One more change that would do, after the others."""
        self.fixes = (*(change.flags for change in self.changes), change.flags)
        self.changes = (*self.changes, change)
        self.fix = "; or ".join(self.fixes)

    def add_variant(self, change: Change) -> None:
        """A variant of the recipe that would do: before the changes that cost more, the GPU or a requirement."""
        flags = tuple(known.flags for known in self.changes) or self.fixes
        dear = (n for n, text in enumerate(flags) if "engine.device" in text or "requires.memory" in text)
        at = next(dear, len(flags)) if self.changes else 0
        self.fixes = (*flags[:at], change.flags, *flags[at:])
        self.changes = (*self.changes[:at], change, *self.changes[at:])
        self.fix = "; or ".join(self.fixes)


def memory_why(memory: Sequence[MemoryItem], limit: int, place: str) -> str:
    """The memory table in one sentence: what is needed, of what, and by whom."""
    total = sum(item.bytes for item in memory)
    parts = ", ".join(f"{item.name} {format_bytes(item.bytes)}" for item in memory if item.bytes)
    return f"at least {format_bytes(total)} of {format_bytes(limit)} {place}: {parts}"
