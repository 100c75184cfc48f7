"""What was read of a recipe, or merged from several layers: the data, and the place of everything in it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .diagnostics import Diagnostic, KeyPath, Place, Source


@dataclass(frozen=True, slots=True)
class Derived:
    """Where a value comes from that is written with references.

    `origins` are the variables on the way (`vars.x`, `env X`), `written` is the value with the references of secrets
    left in it, and `variable` the place of the variable that the whole value is.
    """

    origins: tuple[str, ...]
    secret: bool
    written: str
    variable: Place | None


@dataclass(slots=True)
class Document:
    """What a file says. `data` is None where nothing could be read; `problems` then says why."""

    source: Source
    data: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    secrets: list[Place] = field(default_factory=list)  # what may be a credential, in `data` or not
    tags: dict[KeyPath, str] = field(
        default_factory=dict
    )  # `!append`, `!reset`: how values are laid over others
    nodes: int = 0  # with aliases written out
    derived: dict[KeyPath, Derived] = field(default_factory=dict)
    unknown: set[KeyPath] = field(default_factory=set)  # whose value is not known, because of a problem
    whole: bool = True  # False: something that it should extend could not be read
    untold: int = 0  # problems beyond those that are shown

    def copy(self) -> Document:
        """One that can be merged and added to without changing this one."""
        return replace(
            self,
            data=copied(self.data),
            places=dict(self.places),
            problems=list(self.problems),
            secrets=list(self.secrets),
            tags=dict(self.tags),
            derived=dict(self.derived),
            unknown=set(self.unknown),
        )


def copied(value: Any) -> Any:
    """A copy that shares no list or section with the original."""
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list) else value
