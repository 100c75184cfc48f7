"""libyaml's syntax errors in words for people, at the place where the mistake is."""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml

from .diagnostics import Diagnostic, Source, Span, diagnostic, printable


class _Fault(NamedTuple):
    message: str
    help: str | None
    line: int  # from 0
    col: int  # from 0
    code: str = "yaml-syntax"


def explain_syntax(error: yaml.YAMLError, source: Source) -> Diagnostic:
    """One diagnostic for what the parser raised."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return diagnostic("yaml-syntax", f"not readable as YAML: {printable(str(error))}", source)
    problem = str(getattr(error, "problem", None) or "not readable as YAML")
    start = getattr(error, "context_mark", None) or mark
    line, col = _last_character(source, mark.line, mark.column)
    fault = (
        _tab(source, line)
        or _reference(source, mark.line, mark.column)
        or _unclosed(source, problem, str(getattr(error, "context", "")), start.line, start.column)
        or _indentation(source, problem, line)
        or _character(source, problem, line, col)
        or _Fault(f"not readable as YAML: {printable(problem)}", _HELP.get(problem), line, col)
    )
    return diagnostic(fault.code, fault.message, source, Span(fault.line + 1, fault.col + 1, 1), fault.help)


_HELP = {
    "could not find expected ':'": "a key is followed by a colon and a space: `key: value`",
    "found unknown escape character": "in double quotes `\\` starts an escape; use single quotes to write it as it is",
    "found invalid Unicode character escape code": "write the character itself, or a valid `\\u` escape",
    "did not find expected '-' indicator": "this line stands where the next `- item` of the list is expected",
    "did not find expected node content": "a value is expected here",
    "found incompatible YAML document": "remove the %YAML line",
    "did not find expected whitespace or line break": "a tag such as `!reset` is followed by a space",
}


def _last_character(source: Source, line: int, col: int) -> tuple[int, int]:
    """The parser may point behind the last line; the mistake is then at the end of what is written."""
    if line < len(source.lines) and (col < len(source.lines[line]) or source.lines[line].strip()):
        return line, min(col, len(source.lines[line]))
    for number in range(min(line, len(source.lines) - 1), -1, -1):
        if text := source.lines[number].rstrip():
            return number, len(text) - 1
    return 0, 0


def _tab(source: Source, line: int) -> _Fault | None:
    text = source.lines[line]
    indent = text[: len(text) - len(text.lstrip(" \t"))]
    if "\t" not in indent:
        return None
    return _Fault(
        "this line is indented with a tab",
        "YAML indents with spaces only",
        line,
        indent.index("\t"),
        "yaml-tab",
    )


def _reference(source: Source, line: int, col: int) -> _Fault | None:
    """`{tp: ${vars.tp}}`: between braces and brackets a `{` ends a text that isn't quoted."""
    text = source.lines[line] if line < len(source.lines) else ""
    start = text.rfind("${", 0, col + 2)
    if start < 0 or col > start + 1:
        return None
    end = text.find("}", start)
    written = printable(text[start : end + 1] if end > 0 else text[start:])[:64]
    help = f'inside of `{{…}}` and `[…]` it stands in quotes: `"{written}"`; its value keeps its type'
    return _Fault("a reference can't stand here without quotes", help, line, start)


def _unclosed(source: Source, problem: str, context: str, line: int, col: int) -> _Fault | None:
    opened = source.lines[line][col : col + 1] if line < len(source.lines) else ""
    if problem == "found unexpected end of stream" and opened in ('"', "'"):
        return _Fault(f"the quote {opened} opened here is never closed", f"close it with {opened}", line, col)
    if problem in ("did not find expected ',' or ']'", "did not find expected ',' or '}'"):
        close = problem[-2]
        help = f"close it with `{close}`, and put commas between what stands inside"
        return _Fault(f"the `{opened}` opened here isn't closed as it should be", help, line, col)
    if problem == "did not find expected node content" and "flow" in context and opened in ("[", "{"):
        return _Fault(f"the `{opened}` opened here is never closed", None, line, col)
    return None


def _indentation(source: Source, problem: str, line: int) -> _Fault | None:
    if problem not in ("mapping values are not allowed in this context", "did not find expected key"):
        return None
    text = source.lines[line]
    indent = len(text) - len(text.lstrip(" "))
    above = [
        (n, t) for n, t in enumerate(source.lines[:line]) if t.strip() and not t.lstrip().startswith("#")
    ]
    if not above or not re.match(r"\s*(- )?[^\s:#]+:(\s|$)", text):
        return None
    last, before = above[-1]
    depth = _indents(before)
    if max(depth) == indent and not re.search(r":(\s|$)", before):
        missing = (
            "a space is missing after the colon" if ":" in before else "a colon is missing after this key"
        )
        return _Fault(missing, "a key is followed by a colon and a space: `key: value`", last, min(depth))
    if indent > max(depth) and re.match(r"\s*(- )?[^:#]+:\s+[^\s#|>&]", before):
        help = "the line above already has a value; align this key with it"
        return _Fault("this line is indented deeper than the one above", help, line, indent)
    widths = sorted({width for _, t in above for width in _indents(t)})
    if indent not in widths:
        listed = ", ".join(str(width) for width in widths)
        help = f"it starts with {indent} space{'s' * (indent != 1)}; the lines above with {listed}"
        return _Fault("the indentation of this line matches no section above", help, line, indent)
    return None


def _indents(text: str) -> set[int]:
    """Where keys start on a line: for `  - a: 1` at 2 and at 4."""
    bare = text.lstrip(" ")
    indent = len(text) - len(bare)
    return {indent, indent + 2} if bare.startswith("- ") else {indent}


def _character(source: Source, problem: str, line: int, col: int) -> _Fault | None:
    text = source.lines[line]
    if problem == "found character that cannot start any token" and col < len(text):
        help = f"put the value in quotes: `'{printable(text[col : col + 30].strip())}'`"
        return _Fault(f"a value can't start with `{printable(text[col])}`", help, line, col)
    if problem == "mapping values are not allowed in this context":
        help = "put a text that has `: ` in it in quotes, or check this line's indentation"
        return _Fault("a second `:` can't stand here", help, line, col)
    if problem == "did not find expected key":
        return _Fault(
            "a key is expected here", "quotes must hold the whole value; one key on a line", line, col
        )
    return None
