"""The examples of the error codes, as text, and with the errors that they really have; docs/diagnostics.md's list.

python -m deploykit.recipe.examples --write docs/diagnostics.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .check import Overrides
from .codes import CODES, Code
from .diagnostics import Diagnostic
from .recipe import check_bytes
from .render import render_plain

MARK = "<!-- the codes: written by `python -m deploykit.recipe.examples`, not by hand -->\n"

_MOST_LINES = 6
_MOST_ERRORS = 1


def example_text(code: Code) -> str:
    """The recipe of an example, long ones cut; empty where the example is a file that isn't there."""
    if code.example is None:
        return ""
    text = (
        code.example.decode("utf-8", "backslashreplace") if isinstance(code.example, bytes) else code.example
    )
    text = "".join(
        c if c.isprintable() or c == "\n" else "\\t" if c == "\t" else f"\\x{ord(c):02x}" for c in text
    )
    lines = text.splitlines(keepends=True)
    return text if len(lines) <= _MOST_LINES else "".join(lines[:_MOST_LINES]) + "…\n"


def example_errors(code: Code) -> Sequence[Diagnostic]:
    """What is wrong with an example, now: its last error, which is the one that the code is for."""
    if code.example is None:
        return ()
    raw = code.example if isinstance(code.example, bytes) else code.example.encode()
    return check_bytes(raw, "recipe.yaml", Overrides(code.sets, code.profiles, environ={}))[-_MOST_ERRORS:]


def code_list() -> str:
    """Every code as a section of Markdown."""
    return "\n".join(_section(name, code) for name, code in CODES.items())


def _section(name: str, code: Code) -> str:
    parts = [f"### `{name}`\n", f"{code.title[:1].upper()}{code.title[1:]}. {code.meaning}\n"]
    if text := example_text(code):
        parts.append(f"```text\n{text}```\n")
    shown = f"$ {code.command}\n" + render_plain(example_errors(code)).rpartition("\n\n")[0]
    parts += [f"```text\n{shown.rstrip()}\n```\n", f"*Fix:* {code.fix}\n"]
    return "\n".join(parts)


def main(argv: list[str]) -> int:
    """`--write FILE` puts the list in place of what stands behind MARK there; without it, it is printed."""
    if not argv:
        sys.stdout.write(code_list())
        return 0
    if len(argv) != 2 or argv[0] != "--write":
        sys.stderr.write("usage: python -m deploykit.recipe.examples [--write FILE]\n")
        return 2
    from deploykit.fsutil import write_atomic

    path = Path(argv[1])
    head = path.read_text().partition(MARK)[0]
    write_atomic(path, f"{head}{MARK}\n{code_list()}".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
