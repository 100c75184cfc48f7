"""The command line's front door: finds the command, imports its module alone, and turns every fault into text.

The commands are known here by name and one line of help, so that `--help` imports none of them. Each lives in
`deploykit/cli/<name>.py` as a function of the same name with Typer annotations; it returns an exit code or None.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from deploykit.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, DeploykitError

COMMANDS: dict[str, str] = {
    "up": "Serve a recipe, a model folder, a GGUF file or a hub id.",
    "chat": "Talk to a model: a running deployment, a URL, or a private one.",
    "ps": "List deployments.",
    "logs": "Show what a deployment logged.",
    "down": "Drain and stop deployments.",
    "ls": "List the shipped recipes.",
    "show": "Print a shipped recipe, alone or with what it extends.",
    "cp": "Copy a shipped recipe, as one file to change.",
    "init": "Write a commented recipe that fits a model to this machine.",
    "validate": "Check recipes and show every mistake at its line.",
    "config": "Print a recipe with everything merged, and where each value comes from.",
    "explain": "Explain an error code of recipes, with an example and the way out.",
    "plan": "Show the engine, the memory and the reasons before anything is downloaded.",
    "templates": "List chat templates; show or render one, or the one of a model.",
    "pull": "Fetch a model's files, or show what would be fetched.",
    "lock": "Write down which commit and files a recipe's model is; --check compares.",
    "cache": "Show, check and clean the cache of models.",
    "convert": "Make safetensors of a model in .bin or .pth files.",
    "build": "Compile the native engine for this machine.",
    "doctor": "Judge this machine: what works, what doesn't, how to fix it.",
    "bench": "Measure a deployment.",
    "schema": "Print the recipe's JSON Schema, or explain one key of it.",
    "completion": "Print the script that completes command lines in bash, zsh or fish.",
    "version": "Print the version.",
}

_FILES = (".yaml", ".yml", ".gguf")
_EPILOG = "`deploykit COMMAND --help` explains a command. To begin: deploykit up smollm2-135m"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code (0 ok, 1 failure, 2 usage or configuration, 3 does not fit, 130 Ctrl-C)."""
    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in _options(args)
    try:
        code = _dispatch(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _pacify_stdout()
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except DeploykitError as error:
        if _debug():
            raise
        _print_error(error, as_json)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that may not be written: the system's word, not a bug
        if _debug():
            raise
        where = str(error.filename) if error.filename is not None else None
        _print_error(DeploykitError(f"the system refused: {error.strerror or error}", where=where), as_json)
        return EXIT_FAILURE
    except Exception as error:
        if _debug():
            raise
        _print_error(
            DeploykitError(
                "this is a bug in deploykit",
                why=f"{type(error).__name__}: {error}",
                fix="run the command again with DEPLOYKIT_DEBUG=1 and report what it prints",
            ),
            as_json,
        )
        return EXIT_FAILURE


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        if args and args[0] == "help" and len(args) > 1:
            return _dispatch([args[1], "--help"])
        print(_help())
        return EXIT_OK
    if args[0] in ("-V", "--version"):
        args[0] = "version"
    name = args[0]
    if name == "__complete":  # asked by the script of `deploykit completion`, at every Tab
        from deploykit.cli._complete import main as complete

        return complete(args[1:])
    if name not in COMMANDS:
        return _unknown(args)
    return _run(name, _load(name), args[1:])


def _load(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(importlib.import_module(f"deploykit.cli.{name}"), name)
    return function


def _run(name: str, function: Callable[..., Any], args: list[str]) -> int:
    import typer
    from typer.main import get_command

    app = typer.Typer(
        add_completion=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(name)(function)
    try:
        result = get_command(app).main(args, prog_name=f"deploykit {name}", standalone_mode=False)
    except typer.Abort:
        return EXIT_INTERRUPTED
    except Exception as error:
        # A wrong flag or value; the class has no public name that is the same in every Typer.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            if option := getattr(error, "option_name", None):
                _explain_option(str(option))
            return int(error.exit_code)
        raise
    return result if isinstance(result, int) else EXIT_OK


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "Usage: deploykit [--version] COMMAND [ARGUMENTS]...",
        "",
        "One YAML recipe in, one healthy OpenAI-compatible endpoint out.",
        "",
        "Commands:",
        *(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
        "",
        _EPILOG,
    ]
    return "\n".join(lines)


def _explain_option(name: str) -> None:
    """What an unknown option means to somebody who knows it from another server."""
    from deploykit.recipe.foreign import option

    if hint := option(name):
        print(f"  fix:   {hint}", file=sys.stderr)


def _unknown(args: list[str]) -> int:
    from difflib import get_close_matches

    from deploykit.recipe.foreign import command

    name = args[0]
    kind = "option" if name.startswith("-") else "command"
    error = DeploykitError(f"there is no {kind} {name!r}", exit_code=EXIT_USAGE)
    if hint := command(args):
        error.why = hint.text
        error.fix = hint.line
    elif close := get_close_matches(name, COMMANDS, n=1):
        error.fix = f"did you mean `deploykit {close[0]}`?"
    elif kind == "command" and (name.endswith(_FILES) or os.path.exists(name)):  # noqa: PTH110 - never raises
        error.fix = f"to serve it: deploykit up {name}"
    else:
        error.fix = f"one of: {', '.join(COMMANDS)}"
    _print_error(error, as_json=False)
    return error.exit_code


def _options(args: list[str]) -> list[str]:
    """What may be options: arguments before a `--`."""
    return args[: args.index("--")] if "--" in args else args


def _print_error(error: DeploykitError, as_json: bool) -> None:
    """On stderr for a person, or on stdout for a program that asked with --json: the exit code is the same."""
    from deploykit.cli._output import print_error, print_error_json

    (print_error_json if as_json else print_error)(error)


def _debug() -> bool:
    return os.environ.get("DEPLOYKIT_DEBUG") == "1"


def _pacify_stdout() -> None:
    """The reader of our output is gone (`| head`): keep the interpreter's last flush from complaining."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
