"""The fix for a wrong key or value: what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from .diagnostics import KeyPath, dotted, printable
from .foreign import FOREIGN_KEYS, FOREIGN_VALUES, Foreign, meanings
from .plain import slug
from .tree import FILE_KEYS, Node, sections_by_key

_MAX_KEY = 64  # longer ones resemble nothing, and comparing them costs time
_CLOSE = 0.8  # how alike two words must be for one to be a misspelling of the other
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")


class Suggestion(NamedTuple):
    """Help for a wrong key. `rename` is what to write in its place, where that is all there is to do.

    `home` is the key of this language that it is, written wrongly or in the wrong section; its value is that key's.
    """

    help: str
    rename: str | None = None
    home: KeyPath | None = None


def for_key(path: KeyPath, siblings: Iterable[str], value: Any = None) -> Suggestion:
    """Help for the unknown key that `path` ends with, in a section whose keys are `siblings`; `value` is its value."""
    key, section = str(path[-1]), dotted(path[:-1])
    keys = [*siblings, *(() if section else FILE_KEYS)]
    if len(key) > _MAX_KEY:
        return Suggestion(_listing(section, keys))
    if key.startswith("x-"):
        return Suggestion(
            "keys that start with `x-` stand at the top of a file alone: move it there, or remove it"
        )
    plain = snake_case(key)
    if plain in keys:
        return Suggestion(f"write it `{plain}`", plain, (*path[:-1], plain))
    if entries := meanings(plain):
        same = entries[0].here and all(e.is_synonym and e.here == entries[0].here for e in entries)
        home, _, name = (entries[0].here or "").rpartition(".")
        return Suggestion(_translation(plain, entries, value), name if same and home == section else None)
    homes = [home for home in sections_by_key().get(plain, []) if home != section]
    if homes:
        home = homes[0] if len(homes) == 1 else _outermost(homes)
        return Suggestion(_belongs(plain, home), home=_at(home, plain))
    if close := difflib.get_close_matches(plain, keys, 2, 0.7):
        only = close[0] if len(close) == 1 else None
        return Suggestion(f"did you mean `{close[0]}`?", only, (*path[:-1], only) if only else None)
    if close := difflib.get_close_matches(plain, sections_by_key(), 1, _CLOSE):
        home = sections_by_key()[close[0]][0]
        return Suggestion(_belongs(close[0], home, meant=True), home=_at(home, close[0]))
    if close := difflib.get_close_matches(plain, FOREIGN_KEYS, 1, _CLOSE):
        return Suggestion(_translation(close[0], meanings(close[0]), value))
    return Suggestion(_listing(section, keys))


def _translation(name: str, entries: tuple[Foreign, ...], value: Any) -> str:
    """What another server's name is here, and what its value becomes."""
    owners = list(dict.fromkeys(e.owner for e in entries))
    first = entries[0]
    keys = {e.here for e in entries}
    if len(keys) > 1:
        each = ", ".join(f"in {e.owner} it is `{e.here}` here" for e in entries if e.here)
        return f"`{name}` means different things: {each}"
    if first.here is None:
        end = "; remove the key" if ":" in first.note else ": remove the key"
        return f"`{name}` is a setting of {_and(owners)}; here {first.note}{end}"
    whose = _and([owner + ("'" if owner.endswith("s") else "'s") for owner in owners])
    note = f" ({first.note})" if first.note else ""
    write = _converted(first, value)
    return f"`{name}` is {whose} name for it; here it is `{first.here}`{note}{write}"


def _converted(entry: Foreign, value: Any) -> str:
    """`; write `quant_policy: fp8``, where the value is written otherwise here."""
    made = (
        entry.convert.apply(value)
        if entry.convert.apply and isinstance(value, bool | int | float | str)
        else None
    )
    if made is None or (type(made) is type(value) and made == value) or len(str(made)) > _MAX_KEY:
        return ""
    return f"; write `{(entry.here or '').rpartition('.')[2]}: {_written(made)}`"


def _written(value: Any) -> str:
    """A value as YAML."""
    if isinstance(value, list):
        return f"[{', '.join(_quoted(str(item)) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else printable(str(value))


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


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
        and 2 <= value <= 100
    ):
        return f"a share, not a percentage: `{value / 100:g}`"
    return None


def snake_case(key: str) -> str:
    """`maxBatchSize`, `max-batch-size`, `--max-batch-size` -> `max_batch_size`."""
    return _CAMEL.sub("_", key.removeprefix("--")).replace("-", "_").replace(" ", "_").lower()


def _belongs(key: str, section: str, *, meant: bool = False) -> str:
    if not section:
        return f"`{key}` belongs at the top level: move it out of this section"
    did_you = f"did you mean `{key}`? it" if meant else f"`{key}`"
    if section.endswith("[]"):
        return f"{did_you} belongs to an entry of `{section[:-2]}`"
    return f"{did_you} belongs under `{section}`: move it to `{section}.{key}`"


def _at(section: str, key: str) -> KeyPath | None:
    """The path of a key of a section; None in a list, of which any entry may be meant."""
    return None if "[" in section else (*filter(None, section.split(".")), key)


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
    return "nothing, or null, stands after the colon: give a value, or remove the key to have the default"


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
