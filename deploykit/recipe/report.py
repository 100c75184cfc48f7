"""Diagnostics for other programs: GitHub's workflow commands, and SARIF 2.1.0."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .codes import CODES
from .diagnostics import Diagnostic, Related, printable

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def to_github(d: Diagnostic) -> str:
    """One workflow command, which GitHub shows beside the line of the file."""
    place: list[tuple[str, str]] = []
    text = d.message + (f"\n{d.help}" if d.help else "")
    if d.line is not None and d.col is not None:
        place = [
            ("file", _relative(d.file)),
            ("line", str(d.line)),
            ("col", str(d.col)),
            ("endColumn", str(d.col + d.length)),
        ]
    elif d.snippet is None:
        place = [("file", _relative(d.file))]
    else:
        text = f"{d.where}: {text}"
    place.append(("title", d.code))
    properties = ",".join(f"{name}={_escaped(value, property=True)}" for name, value in place)
    return f"::error {properties}::{_escaped(text)}"


def to_sarif(diagnostics: Sequence[Diagnostic], version: str) -> dict[str, Any]:
    """A SARIF log with every code as a rule; `version` is deploykit's."""
    rules = [
        {
            "id": code,
            "shortDescription": {"text": rule.title},
            "fullDescription": {"text": rule.meaning},
            "help": {"text": rule.fix},
            "defaultConfiguration": {"level": "error"},
        }
        for code, rule in CODES.items()
    ]
    driver = {"name": "deploykit", "semanticVersion": version, "rules": rules}
    order = {code: index for index, code in enumerate(CODES)}
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "results": [_result(d, order[d.code]) for d in diagnostics],
            }
        ],
    }


def _result(d: Diagnostic, rule: int) -> dict[str, Any]:
    text = d.message + (f". {d.help}" if d.help else "")
    is_file = d.line is not None or d.snippet is None
    result: dict[str, Any] = {
        "ruleId": d.code,
        "ruleIndex": rule,
        "level": "error",
        "message": {"text": text if is_file else f"{d.where}: {text}"},
    }
    if is_file:
        result["locations"] = [{"physicalLocation": _location(d.file, d.line, d.col, d.length)}]
    if others := [r for r in d.related if r.line is not None]:
        result["relatedLocations"] = [_related(n, r) for n, r in enumerate(others)]
    if d.rename is not None and d.line is not None:
        replacement = {
            "deletedRegion": _region(d.line, d.col, d.length),
            "insertedContent": {"text": d.rename},
        }
        change = {"artifactLocation": {"uri": _uri(d.file)}, "replacements": [replacement]}
        result["fixes"] = [{"description": {"text": f"write `{d.rename}`"}, "artifactChanges": [change]}]
    return result


def _related(number: int, r: Related) -> dict[str, Any]:
    place = _location(r.file, r.line, r.col, r.length)
    return {"id": number, "physicalLocation": place, "message": {"text": r.message}}


def _location(file: str, line: int | None, col: int | None, length: int) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(file)}}
    if line is not None:
        place["region"] = _region(line, col, length)
    return place


def _region(line: int, col: int | None, length: int) -> dict[str, int]:
    start = col or 1
    return {"startLine": line, "startColumn": start, "endLine": line, "endColumn": start + length}


def _uri(file: str) -> str:
    path = _relative(file)
    text = quote(path.encode("utf-8", "surrogateescape"))
    return f"file://{text}" if path.startswith("/") else text


def _relative(file: str) -> str:
    """The path from the working folder where the file is below it: what code hosts know files by."""
    path = Path(os.path.abspath(file))  # noqa: PTH100 - links are kept
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()


def _escaped(text: str, *, property: bool = False) -> str:
    text = "\n".join(printable(line) for line in text.split("\n"))
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if property else text
