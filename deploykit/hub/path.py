"""A model that is on this machine already."""

from __future__ import annotations

from pathlib import Path

from deploykit.errors import ConfigError
from deploykit.hub.pins import check_pins, summed
from deploykit.hub.types import Fetched, PathRef, PinnedFile, Report, Resolved


class PathSource:
    def __init__(self, ref: PathRef) -> None:
        self.ref = ref
        self.path = Path(ref.path).expanduser().absolute()

    def locate(self) -> Fetched | None:
        if not (self.path.is_dir() or self.path.is_file()):
            return None
        if self.ref.pinned:
            check_pins(
                self.ref.pinned, [summed(self._inside(p.name), p.name) for p in self._there()], str(self.path)
            )
        return Fetched(path=self.path, source=str(self.ref))

    def _there(self) -> list[PinnedFile]:
        """The pinned files that are there."""
        return [p for p in self.ref.pinned if self._inside(p.name).is_file()]

    def _inside(self, name: str) -> Path:
        return self.path / name if self.path.is_dir() else self.path

    def resolve(self) -> Resolved:
        self._found()
        return Resolved("", (PinnedFile(self.path.name),))

    def present(self, resolved: Resolved) -> int:
        return 0

    def fetch(self, report: Report) -> Fetched:
        return self._found()

    def _found(self) -> Fetched:
        if found := self.locate():
            return found
        fix = "correct the path; relative paths of a recipe start at the recipe's folder"
        raise ConfigError("there is no such folder or file", where=str(self.path), fix=fix)
