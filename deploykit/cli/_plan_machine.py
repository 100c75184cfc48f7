"""`deploykit plan --machine`: the machine at hand, one that is known by name, or one that a file describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.hardware.described import Described, Mistake
    from deploykit.plan.choose import NativeProblems

MAX_FILE = 1 << 20
_SUFFIXES = (".yaml", ".yml", ".json")


def described(wanted: str) -> Described:
    """The machine of a name or a file. Raises ConfigError that shows every mistake in the file."""
    from deploykit.hardware import catalog

    if wanted.lower().endswith(_SUFFIXES) or "/" in wanted or "\\" in wanted:
        return _read(Path(wanted))
    found = catalog.named(wanted)
    if found is not None:
        return found
    if Path(wanted).is_file():
        return _read(Path(wanted))
    close = catalog.similar(wanted)
    known = ", ".join(catalog.names())
    raise ConfigError(
        f"there is no machine called {wanted!r}",
        where="--machine",
        why=f"known are {known}, each GPU also as {close or '4090'}x2 and so on up to {catalog.MAX_GPUS}"
        if close is None
        else None,
        fix=f"did you mean `--machine {close}`? `deploykit plan --machines` lists them"
        if close
        else "give one of these names, or a .yaml or .json file that describes the machine",
    )


def native_problems(machine: Described | None, probed: Any) -> NativeProblems:
    """Why the native library can't be had, for a CPU and for a GPU: on this machine, or on the described one."""
    from deploykit.plan.choose import NativeProblems

    if machine is None:
        from deploykit.deployment.native import native_cuda_problem, native_problem

        return NativeProblems(native_problem(probed), native_cuda_problem(probed))
    from deploykit.plan.generations import missing_tools

    here = machine.machine
    gpu = here.gpus[0] if here.gpus else None
    return NativeProblems(missing_tools(here, None), missing_tools(here, gpu) if gpu else None)


# ---------------------------------------------------------------- files


def _read(path: Path) -> Described:
    from deploykit.hardware.described import DescriptionError, from_fields

    text = _text(path)
    places: dict[tuple[str | int, ...], str] = {}
    data = _json(path, text) if path.suffix.lower() == ".json" else _yaml(path, text, places)
    try:
        return from_fields(data, str(path))
    except DescriptionError as error:
        raise _refused(path, error.mistakes, places) from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ConfigError(
                "the machine's file is too large", where=str(path), why="1 MiB is the most that is read"
            )
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fix = "`deploykit plan --machines` lists the machines that need no file"
        raise ConfigError("the machine's file can't be read", where=str(path), why=why, fix=fix) from None


def _json(path: Path, text: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ConfigError(
                "the machine's file can't be used", where=str(path), why=f"`{twice}` stands there twice"
            )
        return dict(items)

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError("the machine's file is not JSON", where=where, why=error.msg) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError("the machine's file is not JSON", where=str(path), why=str(error)) from None
    except RecursionError:
        raise ConfigError(
            "the machine's file is not JSON", where=str(path), why="it is nested too deeply"
        ) from None


def _yaml(path: Path, text: str, places: dict[tuple[str | int, ...], str]) -> Any:
    from deploykit.recipe.loader import parse

    document = parse(text, str(path))
    if document.problems:
        first = document.problems[0]
        raise ConfigError(
            "the machine's file is not YAML that can be used",
            where=first.where,
            why=first.message,
            fix=first.help,
        )
    for key, place in document.places.items():
        span = place.key or place.value
        places[tuple(key)] = f"{path}:{span.line}:{span.col}"
    return document.data


def _refused(path: Path, mistakes: list[Mistake], places: dict[tuple[str | int, ...], str]) -> ConfigError:
    lines = []
    for mistake in mistakes:
        field = ""
        for part in mistake.path:
            field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else str(part)
        # `unknown field` names it already, and a whole file has no field
        label = f"{field}: " if field and not mistake.message.startswith("unknown field") else ""
        lines.append(f"{places.get(mistake.path, path)}: {label}{mistake.message}")
    count = "a mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
    return ConfigError(
        f"the machine's file has {count}",
        where=str(path),
        why="\n".join(lines),
        fix="its fields are those that `deploykit plan --machines --json` prints",
    )
