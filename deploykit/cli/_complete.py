"""What could stand at the cursor of a command line: the answer to a shell's question, without running anything.

A shell's script calls `deploykit __complete SHELL WORDS...`, the words after the program's name with the one at the
cursor last, and reads lines of `value<TAB>meaning`. A line that starts with `:` tells what else to offer: `:files`
with endings (none: any file), `:folders`; and `:nospace` that the word goes on. Only the module of the command on the
line is imported.
"""

from __future__ import annotations

import contextlib
import enum
import shlex
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

from deploykit.cli import _complete_sources as sources
from deploykit.cli._complete_sources import Candidate, Found

# Positional arguments and values of options: `command.parameter`, else `parameter` -> what completes it.
SOURCES: dict[str, Callable[[sources.Line], Found]] = {
    "target": sources.target,
    "recipe": sources.target,
    "chat.target": sources.endpoint,
    "bench.target": sources.endpoint,
    "chat.prompt": sources.nothing,
    "validate.files": sources.recipe,
    "lock.recipe": sources.recipe,
    "show.name": sources.shipped_name,
    "cp.name": sources.shipped_name,
    "cp.dest": sources.any_file,
    "logs.name": sources.deployment,
    "down.names": sources.deployment,
    "explain.code": sources.code,
    "templates.name": sources.template,
    "templates.messages": sources.json_file,
    "cache.names": sources.nothing,
    "convert.folder": sources.folder,
    "convert.out": sources.folder,
    "schema.field": sources.key,
    "init.model": sources.target,
    "ls.words": sources.nothing,
    "bench.peer_python": sources.nothing,
    "cache.dir_": sources.folder,
    "machine": sources.machine,
    "set_": sources.assignment,
    "sets": sources.assignment,
    "chat.set_": sources.sampling,
    "profile": sources.profile,
    "profiles": sources.profile,
    "family": sources.family,
}


def main(args: Sequence[str]) -> int:
    """Answer one question. Nothing is an error: a shell has no place to show one."""
    shell, words = (args[0], list(args[1:])) if args else ("", [])
    if shell == "bash":  # the line as typed, for bash splits words at `=` and `:`
        words = split(words[0]) if words else []
    with contextlib.suppress(Exception):
        for line in lines(complete(words[1:] if shell == "bash" else words)):
            print(line)
    sys.stdout.flush()
    return 0


def split(line: str) -> list[str]:
    """The words of an unfinished command line, the one at its end last (empty after a space)."""
    for ending in ("", '"', "'"):
        lexer = shlex.shlex(line + ending + ("\0" if not ending else ""), posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        with contextlib.suppress(ValueError):
            words = list(lexer)
            words[-1] = words[-1].removesuffix("\0")
            return words
    return line.split()


def lines(found: Found) -> list[str]:
    """The answer as it is printed."""
    out = [f"{c.value}\t{_one_line(c.meaning)}" for c in found.candidates]
    if found.folders:
        out.append(":folders")
    elif found.files is not None:
        out.append(" ".join([":files", *found.files]))
    return [*out, ":nospace"] if found.nospace else out


def complete(words: Sequence[str]) -> Found:
    """What the last of the words after `deploykit` may become."""
    from deploykit.cli.app import COMMANDS

    current = words[-1] if words else ""
    if len(words) <= 1 or (words[0] == "help" and len(words) == 2):
        options = [] if len(words) > 1 else [Candidate("--help", ""), Candidate("--version", "")]
        commands = [Candidate(name, text) for name, text in COMMANDS.items()]
        return _starting(Found(options if current.startswith("-") else commands), current)
    if words[0] not in COMMANDS:
        return Found()
    return _of_command(words[0], list(words[1:]))


def _of_command(command: str, words: list[str]) -> Found:
    function, parameters = _parameters(command)
    options = {o: p for p in parameters for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
    positional = [p for p in parameters if not p.opts[0].startswith("-")]
    current, before = words[-1], words[:-1]
    line = sources.Line(command=command)
    ended, waiting = False, None
    for word in before:
        name, equals, value = word.partition("=")
        if waiting is not None:
            line.options.setdefault(waiting.name, []).append(word)
            waiting = None
        elif word == "--" and not ended:
            ended = True
        elif word.startswith("-") and word != "-" and not ended:
            option = options.get(name)
            if option is not None and not option.is_flag:
                if equals:
                    line.options.setdefault(option.name, []).append(value)
                else:
                    waiting = option
            elif option is not None:
                line.options.setdefault(option.name, [])
        else:
            line.arguments.append(word)
    if waiting is not None:
        return _values(command, function, waiting, line, current)
    if not ended and current.startswith("-"):
        name, equals, value = current.partition("=")
        if not equals:
            return _starting(Found(_unused(parameters, line)), current)
        option = options.get(name)
        if option is None or option.is_flag:
            return Found()
        found = _values(command, function, option, line, value)
        found.candidates = [Candidate(f"{name}={c.value}", c.meaning) for c in found.candidates]
        return found
    if not positional:
        return Found()
    index = min(len(line.arguments), len(positional) - 1)
    if len(line.arguments) >= len(positional) and positional[-1].nargs != -1:
        return Found()
    return _values(command, function, positional[index], line, current)


def _parameters(command: str) -> tuple[Callable[..., Any], list[Any]]:
    import typer
    from typer.main import get_command

    from deploykit.cli.app import _load

    function = _load(command)
    app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})
    app.command(command)(function)
    return function, list(get_command(app).params)


def _unused(parameters: list[Any], line: sources.Line) -> list[Candidate]:
    """Options that can still be given: long names, those of several spellings in each."""
    found = [Candidate("--help", "Show this message and exit.")]
    for parameter in parameters:
        if not parameter.opts[0].startswith("-") or (
            parameter.name in line.options and not parameter.multiple
        ):
            continue
        if getattr(parameter, "hidden", False):
            continue
        names = [n for n in (*parameter.opts, *parameter.secondary_opts) if n.startswith("--")]
        found += [Candidate(name, parameter.help or "") for name in names or parameter.opts]
    return found


def _values(
    command: str, function: Callable[..., Any], parameter: Any, line: sources.Line, current: str
) -> Found:
    line.current = current
    source = SOURCES.get(f"{command}.{parameter.name}") or SOURCES.get(parameter.name)
    if source is not None:
        return _starting(source(line), current)
    kinds = _kinds(function, parameter.name)
    if choices := [c for kind in kinds if issubclass(kind, enum.Enum) for c in kind]:
        return _starting(Found([Candidate(str(c.value), "") for c in choices]), current)
    metavar = str(parameter.metavar or "").upper()
    if "FOLDER" in metavar:
        return Found(folders=True)
    if "FILE" in metavar or "PATH" in metavar or any(k.__name__ == "Path" for k in kinds):
        return Found(files=())
    return Found()


def _kinds(function: Callable[..., Any], name: str) -> list[type]:
    """The classes in a parameter's annotation: of `Annotated[list[Kind] | None, …]` it is Kind and None."""
    found: list[type] = []

    def walk(hint: Any) -> None:
        if arguments := typing.get_args(hint):
            for inner in arguments:
                walk(inner)
        elif isinstance(hint, type):
            found.append(hint)

    walk(typing.get_type_hints(function).get(name))
    return found


def _starting(found: Found, current: str) -> Found:
    found.candidates = [c for c in found.candidates if c.value.startswith(current)]
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())[:100]
