"""What a pipe raises, and what a response of a batch carries in `error`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from deploykit.errors import ConfigError, DeploykitError

T = TypeVar("T")


class InvalidField(ConfigError, ValueError):
    """A field of a configuration has a value that can't be used. `field` is its name."""

    def __init__(self, field: str, what: str, *, fix: str | None = None) -> None:
        super().__init__(what, where=field, fix=fix)
        self.field = field


class GenerationError(DeploykitError):
    """One prompt has no (whole) answer. `code` is stable.

    `context_length_exceeded`, `template_rejected`, `invalid_value` and their like: the prompt is at fault;
    `engine_restarted`: the engine died while it answered and is started again; `closed`: the pipe was closed.
    """

    def __init__(self, code: str, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.code = code


def known_fields(foreign: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Class decorator: a keyword that the class doesn't have is a TypeError that says what was meant.

    `foreign` maps other programs' names to what is said of them.
    """

    def decorate(cls: type[T]) -> type[T]:
        original = cls.__init__
        names = [name for name in cls.__annotations__ if not name.startswith("_")]

        @functools.wraps(original)
        def init(self: T, *args: Any, **given: Any) -> None:
            for name in given:
                if name not in names:
                    raise TypeError(f"{cls.__name__} has no field {name!r}: {_meant(name, names, foreign)}")
            original(self, *args, **given)

        cls.__init__ = init  # type: ignore[assignment, method-assign]
        return cls

    return decorate


def _meant(name: str, names: list[str], foreign: Mapping[str, str]) -> str:
    if name in foreign:
        return foreign[name]
    if close := difflib.get_close_matches(name, names, 1, 0.7):
        return f"did you mean `{close[0]}`?"
    return f"its fields are {', '.join(names)}"
