"""Faults scripted from the environment, for tests: `DEPLOYKIT_FAULT=engine.step:raise@17,engine.step:delay=0.05`.

A comma-separated list of `site:action[=value][@number]`. `@17` means at the 17th step, counted from 1, and only
then; without it, always. Nothing here works unless `DEPLOYKIT_TESTING=1` is set.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Mapping

from deploykit.errors import ConfigError

EXIT_CODE = 70  # of a process that a scripted `exit` ends
_ACTIONS = {
    "engine.load": ("raise", "hang", "exit", "delay"),
    "engine.step": ("raise", "hang", "exit", "delay"),
    "engine.row": ("fail",),
}
_COUNTED = ("engine.step", "engine.row")  # sites that happen more than once
_SHAPE = re.compile(r"(?P<site>[a-z.]+):(?P<action>[a-z]+)(?:=(?P<value>[^@]*))?(?:@(?P<number>.*))?")
_EXAMPLE = "engine.step:raise@17"


class ScriptedFault(Exception):
    """What `raise` raises."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    site: str
    action: str
    value: float = 0.0  # seconds, of a delay
    number: int | None = None  # of the step, from 1; None = every one

    def __str__(self) -> str:
        value = f"={self.value:g}" if self.action == "delay" else ""
        return f"{self.site}:{self.action}{value}" + (f"@{self.number}" if self.number else "")


class Faults:
    """The faults of one process."""

    def __init__(self, faults: tuple[Fault, ...] = ()) -> None:
        self.faults = faults

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Faults:
        """Raises ConfigError where the variable is malformed, or set without DEPLOYKIT_TESTING=1."""
        text = environ.get("DEPLOYKIT_FAULT", "")
        if not text:
            return cls()
        if environ.get("DEPLOYKIT_TESTING") != "1":
            raise ConfigError(
                "scripted faults are for tests",
                where="environment variable DEPLOYKIT_FAULT",
                why="DEPLOYKIT_TESTING is not 1",
                fix="unset DEPLOYKIT_FAULT, or set DEPLOYKIT_TESTING=1",
            )
        return cls(parse_faults(text))

    def delay(self, site: str, number: int = 1) -> float:
        """Seconds that the scripted delays of `site` add at its `number`-th time."""
        return math.fsum(f.value for f in self._due(site, number) if f.action == "delay")

    def fire(self, site: str, number: int = 1) -> None:
        """Raise ScriptedFault, hang for ever or end the process, if that is scripted."""
        for fault in self._due(site, number):
            if fault.action == "raise":
                raise ScriptedFault(str(fault))
            if fault.action == "exit":
                os._exit(EXIT_CODE)
            if fault.action == "hang":
                while True:
                    time.sleep(3600)

    def row_fails(self, number: int) -> bool:
        """Whether the first row of step `number` fails."""
        return bool(self._due("engine.row", number))

    def _due(self, site: str, number: int) -> list[Fault]:
        return [f for f in self.faults if f.site == site and f.number in (None, number)]


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults of a comma-separated list. Raises ConfigError that names the wrong item."""
    return tuple(_parse_fault(item.strip()) for item in text.split(","))


def _parse_fault(item: str) -> Fault:
    match = _SHAPE.fullmatch(item)
    if match is None:
        raise _error(item, "it is not of the form site:action[=value][@number]", f"for example {_EXAMPLE}")
    site, action, value, number = match["site"], match["action"], match["value"], match["number"]
    if site not in _ACTIONS:
        raise _error(item, f"there is no site {site!r}", f"use one of {', '.join(_ACTIONS)}")
    if action not in _ACTIONS[site]:
        raise _error(item, f"{site} has no action {action!r}", f"use one of {', '.join(_ACTIONS[site])}")
    if (action == "delay") != (value is not None):
        raise _error(item, "a delay has a value and nothing else has", f"for example {site}:delay=0.05")
    if number is not None and site not in _COUNTED:
        raise _error(item, f"{site} happens once", f"leave out @{number}")
    if number is not None and not (number.isascii() and number.isdigit() and int(number) > 0):
        raise _error(item, f"{number!r} is no step number", f"count from 1, for example {_EXAMPLE}")
    return Fault(site, action, _seconds(item, value), int(number) if number is not None else None)


def _seconds(item: str, value: str | None) -> float:
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise _error(item, f"{value!r} is no number of seconds", "for example engine.step:delay=0.05")
    return seconds


def _error(item: str, why: str, fix: str) -> ConfigError:
    return ConfigError(
        f"the scripted fault {item!r} is not understood",
        where="environment variable DEPLOYKIT_FAULT",
        why=why,
        fix=fix,
    )
