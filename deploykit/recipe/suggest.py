"""The fix for a wrong key or value: what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from .diagnostics import KeyPath, dotted, printable
from .foreign import FOREIGN_KEYS, FOREIGN_VALUES
from .schema import slug
from .tree import Node, sections_by_key

_MAX_KEY = 64  # longer ones resemble nothing, and comparing them costs time
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")


def for_key(path: KeyPath, siblings: Iterable[str]) -> str:
    """Help for the unknown key that `path` ends with, in a section whose keys are `siblings`."""
    key, section = str(path[-1]), dotted(path[:-1])
    keys = list(siblings)
    if len(key) > _MAX_KEY:
        return _listing(section, keys)
    plain = _snake(key)
    if plain in keys:
        return f"write it `{plain}`"
    if foreign := FOREIGN_KEYS.get(plain):
        if foreign.here is None:
            return f"`{plain}` is a setting of {foreign.owner}; here {foreign.note}: remove the key"
        note = f" ({foreign.note})" if foreign.note else ""
        whose = foreign.owner + ("'" if foreign.owner.endswith("s") else "'s")
        return f"that is {whose} name for it; here it is `{foreign.here}`{note}"
    homes = [home for home in sections_by_key().get(plain, []) if home != section]
    if len(homes) == 1:
        return _belongs(plain, homes[0])
    if homes and (near := _outermost(homes)):
        return _belongs(plain, near)
    if close := difflib.get_close_matches(plain, keys, 1, 0.7):
        return f"did you mean `{close[0]}`?"
    if close := difflib.get_close_matches(plain, sections_by_key(), 1, 0.8):
        return _belongs(close[0], sections_by_key()[close[0]][0], meant=True)
    if close := difflib.get_close_matches(plain, FOREIGN_KEYS, 1, 0.8):
        here = FOREIGN_KEYS[close[0]].here
        if here is not None:
            return f"`{close[0]}` is called `{here}` here"
    return _listing(section, keys)


def for_value(path: KeyPath, value: Any, node: Node) -> str | None:
    """Help for a value of the wrong type, range or form; None if the message says it all."""
    solid = node.solid
    if value is None:
        return _for_null(path, solid)
    if path == ("server", "api_keys") or path[:2] == ("server", "api_keys"):
        return (
            "name the place of the key, never the key itself: `{env: DEPLOYKIT_API_KEY}` or `{file: api.key}`"
        )
    if solid.is_section and isinstance(value, str) and path == ("model",):
        key = "id" if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", value) and not value.endswith(".gguf") else "path"
        return f"write `model: {{{key}: {printable(value[:80])}}}`"
    if solid.is_list and isinstance(value, str) and solid.child(0) is not None:
        return f"a list of one: `[{_quoted(value)}]`"
    if solid.is_text and isinstance(value, bool | int | float):
        return f"put it in quotes: `{_quoted(str(value).lower() if isinstance(value, bool) else str(value))}`"
    if solid.choices:
        return _choice(path, value, [c for c in solid.choices if isinstance(c, str)])
    if path == ("name",) and isinstance(value, str):
        name = slug(value)
        return f"for example `{name}`" if name else None
    if path == ("model", "id") and isinstance(value, str):
        return "for a folder or a .gguf file use `model.path`" if "/" in value or "." in value else None
    if isinstance(value, str):
        return _from_text(value, node)
    if (
        isinstance(value, float)
        and value.is_integer()
        and "whole number" in node.expected
        and abs(value) < 2**53
    ):
        return f"write `{int(value)}`"
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and _is_share(node)
        and 1 < value <= 100
    ):
        return f"a share, not a percentage: `{value / 100:g}`"
    return None


def _snake(key: str) -> str:
    return _CAMEL.sub("_", key).replace("-", "_").replace(" ", "_").lower()


def _belongs(key: str, section: str, *, meant: bool = False) -> str:
    if not section:
        return f"`{key}` belongs at the top level: move it out of this section"
    did_you = f"did you mean `{key}`? it" if meant else f"`{key}`"
    if section.endswith("[]"):
        return f"{did_you} belongs to an entry of `{section[:-2]}`"
    return f"{did_you} belongs under `{section}`: move it to `{section}.{key}`"


def _outermost(homes: list[str]) -> str:
    """Of several sections that have a key, the one nearest to the top, entries of lists last."""
    return min(homes, key=lambda home: ("[" in home, home.count("."), home))


def _listing(section: str, keys: list[str]) -> str:
    listed = ", ".join(keys)
    return f"the keys of `{section}` are: {listed}" if section else f"the top-level keys are: {listed}"


def _for_null(path: KeyPath, node: Node) -> str:
    if node.is_section:
        example = node.required[0] if node.required else next(iter(node.keys))
        return f"the section is empty: remove it, or give it a key such as `{example}`"
    return "nothing stands after the colon: give a value, or remove the key to have the default"


def _choice(path: KeyPath, value: Any, choices: list[str]) -> str | None:
    written = str(value).lower()
    if path == ("version",):
        return "write `version: 1`, the only version of the recipe language so far"
    key = ".".join(str(s) for s in path)
    if (known := FOREIGN_VALUES.get(key, {}).get(written)) is not None:
        return f"write `{known}`"
    if isinstance(value, str) and len(value) <= _MAX_KEY and written not in choices:
        close = difflib.get_close_matches(written, choices, 1, 0.6)
        return f"did you mean `{close[0]}`?" if close else None
    return f"write `{written}`" if written in choices else None


def _from_text(value: str, node: Node) -> str | None:
    expected = node.expected
    if expected == "true or false":
        meant = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
        word = value.lower()
        word = meant.get(word, word)
        return f"YAML 1.2 has only `true` and `false`: write `{word}`" if word in ("true", "false") else None
    if expected.startswith("a size"):
        return _unit(value, {"k": "KiB", "m": "MiB", "g": "GiB", "kb": "KB", "mb": "MB", "gb": "GB", "kib": "KiB",
                             "mib": "MiB", "gib": "GiB", "b": "B"})  # fmt: skip
    if expected.startswith("a duration"):
        return _unit(value, {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m",
                             "minute": "m", "minutes": "m", "hour": "h", "hours": "h", "hr": "h", "d": "d",
                             "day": "d", "days": "d", "ms": "ms", "s": "s", "m": "m", "h": "h"})  # fmt: skip
    if "number" not in expected:
        return None
    bare = value.strip().replace("_", "").replace(",", "") if len(value) <= _MAX_KEY else ""
    if _NUMBER.fullmatch(bare):
        return f"write it without quotes: `{bare}`" if bare == value else f"write `{bare}`"
    if (match := re.fullmatch(r"([0-9]+)\s*[kK](?:i?[bB])?", bare)) and "whole" in expected:
        return f"write `{int(match[1]) * 1024}`"
    if (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", bare)) and _is_share(node):
        return f"write `{float(match[1]) / 100:g}`"
    return (
        "did you mean `auto`?" if "`auto`" in expected and difflib.get_close_matches(bare, ["auto"]) else None
    )


def _unit(value: str, units: dict[str, str]) -> str | None:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)", value[:_MAX_KEY])
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        return None
    return f"write `{float(match[1]) * 24:g}h`" if unit == "d" else f"write `{match[1]}{unit}`"


def _is_share(node: Node) -> bool:
    return node.solid.schema.get("maximum") == 1


def _quoted(text: str) -> str:
    shown = printable(text[:60])
    return '"' + shown.replace('"', '\\"') + '"'
