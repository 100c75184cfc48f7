"""docs/coming-from.md, generated from the table that the diagnostics translate by.

python -m deploykit.recipe.coming_from --write docs/coming-from.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from .foreign import COMMANDS, ENVIRONMENT, FOREIGN_VALUES, PYTHON, TABLES, Foreign
from .foreign.outside import Row
from .tree import lookup

_HEAD = """\
# Coming from another server

What the settings of LMDeploy, vLLM, SGLang, Ollama, llama.cpp and TGI are called here, what becomes of their values,
and why a default differs. This page is made from the table by which `deploykit validate` translates
(`python -m deploykit.recipe.coming_from`), so the two say the same.

A recipe with another server's names is told of every one of them, at its line. What has the same meaning and the same
values in the same section is renamed by `--fix`, and nothing else in the file changes:

```sh
cat > /tmp/from-vllm.yaml <<'END'
version: 1
model: {id: Qwen/Qwen3-0.6B}
engine:
  max_model_len: 8192  # for long documents
  tensor_parallel_size: 1
END
deploykit validate --fix /tmp/from-vllm.yaml
```

Names are written here as in Python and YAML; on other servers' command lines the same names have dashes. The same
tables answer where such a name is used: a command line of another server is told in ours, an option in `--set`,
`from deploykit import TurbomindEngineConfig` says what to import, and `deploykit doctor` names variables of other servers
that are set and that nothing here reads.

```console
$ deploykit serve api_server internlm/internlm2_5-7b-chat --tp 1 --cache-max-entry-count 0.5 --backend turbomind
error: there is no command 'serve'
  why:   `lmdeploy serve api_server` is LMDeploy's: here it is `deploykit up RECIPE` (also of a folder, a `.gguf` file or a hub id; `-d` runs it in the background)
  fix:   deploykit up internlm/internlm2_5-7b-chat --set engine.tp=1 --set engine.cache.ratio=0.5 --set engine.backend=native
```

## What is different on purpose

- **Loopback.** A deployment listens on 127.0.0.1. For another address it asks for `server.api_keys`.
  LMDeploy, vLLM and TGI listen on every address, and none of them asks for a key.
- **No CORS.** No header allows it, so that no page of another site can use the endpoint through a browser; LMDeploy and vLLM
  allow every site.
- **No remote code.** Nothing of a checkpoint is ever run, and pickled weights aren't loaded where they are served: there
  is no `trust_remote_code`.
- **No fetching.** An address in a request is never opened: images by address are how servers were made to read what
  stands behind a firewall.
- **No fallback.** `engine.backend: native` is native or an error; `auto` decides and `deploykit plan` shows why.
- **No inert setting.** What nothing honours is no key. The tables say why there is none.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for tool, table in TABLES.items():
        parts.append(f"\n## Settings: {tool}\n")
        owners = len({entry.owner for entry in table}) > 1
        with_key = [e for e in table if e.here is not None]
        parts.append(_settings(with_key, owners))
        if without := [e for e in table if e.here is None]:
            parts.append("\nWithout a key here:\n")
            parts.append(_without(without))
    parts.append("\n## Values\n\nWords for a value that another server, or habit, has for ours.\n")
    parts.append(_values())
    for title, rows in (
        ("Commands", COMMANDS),
        ("Python names", PYTHON),
        ("Environment variables", ENVIRONMENT),
    ):
        parts.append(f"\n## {title}\n")
        parts.append(_outside(rows))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def ours(key: str) -> str:
    """The default of a key of ours, as a recipe writes it; empty where the key is required or a section."""
    *section, name = key.split(".")
    node = lookup(tuple(section))
    schema = (node.keys if node else {}).get(name, {})
    if "default" not in schema:
        return ""
    value, unit = schema["default"], ""
    child = lookup(tuple(key.split(".")))
    words = child.expected if child else ""
    if words.startswith("a size") and isinstance(value, int):
        value, unit = value >> 20, "MiB"
    elif words.startswith("a duration") and isinstance(value, float):
        value, unit = (value / 60, "m") if value % 60 == 0 else (value, "s")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}"


def _settings(entries: Iterable[Foreign], owners: bool) -> str:
    rows = []
    for e in entries:
        here = e.here or ""
        name = f"`{e.name}` ({e.owner})" if owners else f"`{e.name}`"
        notes = [f"{text[:1].upper()}{text[1:]}." for text in (e.note, e.why) if text]
        rows.append(
            (
                name,
                _code(e.theirs),
                f"`{here}`",
                f"`{ours(here)}`" if ours(here) else "–",
                e.convert.words,
                " ".join(notes),
            )
        )
    return _table(("there", "default", "here", "default", "the value", "the difference"), rows)


def _without(entries: Iterable[Foreign]) -> str:
    """One row for each reason, in the order of the first name that has it."""
    reasons: dict[str, list[str]] = {}
    for e in entries:
        reasons.setdefault(e.note, []).append(f"`{e.name}`")
    return _table(
        ("there", "why there is none"), [(", ".join(names), note) for note, names in reasons.items()]
    )


def _values() -> str:
    rows = []
    for key, words in FOREIGN_VALUES.items():
        meant: dict[str, list[str]] = {}
        for theirs, value in words.items():
            meant.setdefault(value, []).append(f"`{theirs}`")
        rows += [(f"`{key}`", ", ".join(theirs), f"`{value}`") for value, theirs in meant.items()]
    return _table(("key", "there", "here"), rows)


def _outside(rows: Iterable[Row]) -> str:
    cells = [(row.owner, row.there, row.here or "–", row.note) for row in rows]
    return _table(("server", "there", "here", ""), cells)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _code(text: str) -> str:
    """A default: a literal as code, words as words."""
    return f"`{text}`" if text and " " not in text and text != "none" else text or "–"


def main(argv: list[str]) -> int:
    """`--write FILE` writes the page there; without it, it is printed."""
    if not argv:
        sys.stdout.write(page())
        return 0
    if len(argv) != 2 or argv[0] != "--write":
        sys.stderr.write("usage: python -m deploykit.recipe.coming_from [--write FILE]\n")
        return 2
    from deploykit.fsutil import write_atomic

    write_atomic(Path(argv[1]), page().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
