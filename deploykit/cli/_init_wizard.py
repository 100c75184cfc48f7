"""What `deploykit init` asks where no model is given: which model, what for, and where to write it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    from deploykit.cli._init_make import Use

Check = Callable[[str], "str | None"]  # what is wrong with an answer

USES = {
    "chat": "a few people who talk to it",
    "many": "many short requests at once",
    "long": "long documents, as long as the model takes",
}


def ask(use: Use | None, output: str | None) -> tuple[str, Use, str | None]:
    """(model, use, file) from a person; Ctrl-C and Ctrl-D end it. ConfigError in a pipe, where there is nobody."""
    from deploykit.cli._init_make import Use

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "which model?",
            why="there is no terminal to ask at",
            fix="deploykit init MODEL: a hub id, a folder, a .gguf file, or a name that `deploykit ls` shows",
        )
    try:
        return _questions(use, output, Use)
    except EOFError:
        raise KeyboardInterrupt from None


def _questions(use: Use | None, output: str | None, uses: type[Use]) -> tuple[str, Use, str | None]:
    ask_for = _plain if os.environ.get("TERM", "dumb") == "dumb" else _rich
    about = "Model (hub id, folder, .gguf or shipped recipe; Tab completes): "
    model = ask_for(about, _bad_model, completer=_model_completer)
    if use is None:
        for name, meaning in USES.items():
            print(f"  {name:<5} {meaning}")
        words = [item.value for item in uses]
        use = uses(ask_for("Use [chat]: ", lambda text: _bad_choice(text, words)) or "chat")
    if output is None:
        output = ask_for("File: ", _bad_file, default=_free_name(model))
    return model, use, output


def _plain(
    text: str, check: Check, *, default: str = "", completer: Callable[[], Completer] | None = None
) -> str:
    """A line from a terminal that can't do more; an empty one is the default."""
    if default:
        text = f"{text.removesuffix(': ')} [{default}]: "
    while True:
        answer = input(text).strip() or default
        wrong = check(answer)
        if wrong is None:
            return answer
        print(wrong)


def _rich(
    text: str, check: Check, *, default: str = "", completer: Callable[[], Completer] | None = None
) -> str:
    """A line with completion, whose mistakes are shown below it."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.validation import ValidationError, Validator

    class Checked(Validator):
        def validate(self, document: Document) -> None:
            if wrong := check(document.text.strip()):
                raise ValidationError(len(document.text), wrong)

    session: PromptSession[str] = PromptSession()
    return session.prompt(
        text,
        default=default,
        completer=completer() if completer else None,
        complete_while_typing=False,
        validator=Checked(),
        validate_while_typing=False,
    ).strip()


def _free_name(model: str) -> str:
    """A file that isn't there yet, named like the model."""
    from pathlib import Path

    from deploykit.deployment.target import open_target

    name = open_target(model).name
    candidates = (f"{name}.yaml", *(f"{name}-{number}.yaml" for number in range(2, 1000)))
    return next(file for file in candidates if not Path(file).exists())


def _model_completer() -> Completer:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter

    from deploykit import shipped

    names = shipped.names()
    paths = PathCompleter(expanduser=True)

    class ModelCompleter(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            typed = document.text_before_cursor
            for name in names:
                if name.startswith(typed):
                    yield Completion(name, start_position=-len(typed), display_meta="shipped recipe")
            if typed:
                yield from paths.get_completions(document, event)

    return ModelCompleter()


def _bad_model(text: str) -> str | None:
    from deploykit.deployment.target import open_target
    from deploykit.errors import DeploykitError

    if not text:
        return "name a model, such as Qwen/Qwen3-0.6B"
    try:
        open_target(text)
    except DeploykitError as error:
        return f"{error.what}; {error.fix}" if error.fix else error.what
    return None


def _bad_choice(text: str, words: list[str]) -> str | None:
    return None if text in ("", *words) else f"one of {', '.join(words)}"


def _bad_file(text: str) -> str | None:
    from deploykit.cli._recipe_files import destination, refuse_taken

    try:
        refuse_taken(destination(text, "recipe"), {}, "another name")
    except ConfigError as error:
        return error.what
    return None
