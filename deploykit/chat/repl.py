"""The prompt: a line in, an answer streamed out, until Ctrl-D."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploykit.chat import commands, params
from deploykit.chat.answer import Answer
from deploykit.chat.sanitize import TerminalSanitizer, sanitize
from deploykit.chat.session import Session
from deploykit.errors import EXIT_OK, DeploykitError
from deploykit.fsutil import state_dir

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completion
    from prompt_toolkit.document import Document


class Repl:
    """Reads with prompt_toolkit; writes each piece of an answer once, so that the scrollback stays whole."""

    def __init__(self, session: Session, *, stats: bool = True) -> None:
        self.session = session
        self.stats = stats
        self.last: Answer | None = None
        self._dim = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def run(self) -> int:
        prompt = _prompt_session(state_dir() / "chat_history")
        self._note(f"{self.session.model} · /help for commands, Ctrl-D to leave")
        while True:
            try:
                line = prompt.prompt(">>> ")
            except (EOFError, KeyboardInterrupt):
                return EXIT_OK
            try:
                if not self._handle(line):
                    return EXIT_OK
            except DeploykitError as error:
                self._note(str(error))

    def _handle(self, line: str) -> bool:
        """Do what `line` says; False to leave."""
        parsed = commands.parse(line)
        if isinstance(parsed, commands.Message):
            self._ask(parsed.text)
        elif isinstance(parsed, commands.Unknown):
            hint = f"did you mean /{parsed.suggestion}?" if parsed.suggestion else "/help lists the commands"
            self._note(f"unknown command /{parsed.name}: {hint}")
        elif isinstance(parsed, commands.Command):
            if parsed.name == "bye":
                return False
            getattr(self, f"_do_{parsed.name}")(parsed.argument)
        return True

    def _ask(self, text: str) -> None:
        clean = TerminalSanitizer()

        def show(piece: str) -> None:
            sys.stdout.write(clean.feed(piece))
            sys.stdout.flush()

        answer = self.session.ask(text, show)
        self.last = answer
        if answer.aborted or not answer.text.endswith("\n"):
            print()
        if self.stats:
            self._note(answer.stats())

    def _do_help(self, _: str) -> None:
        print(commands.help_text())

    def _do_set(self, argument: str) -> None:
        if not argument:
            return self._do_params("")
        name, value = params.parse_assignment(argument)
        if value is None:
            self.session.params.pop(name, None)
        else:
            self.session.params[name] = value
        self._note(f"{name} = {'default' if value is None else value}")

    def _do_params(self, _: str) -> None:
        print(params.describe(self.session.params))

    def _do_system(self, argument: str) -> None:
        self.session.conversation.system = argument or None
        self._note("system message set" if argument else "no system message")

    def _do_clear(self, _: str) -> None:
        self.session.conversation.clear()
        self._note("conversation cleared")

    def _do_retry(self, _: str) -> None:
        question = self.session.conversation.take_back()
        if question is None:
            return self._note("nothing was asked yet")
        self._ask(question)

    def _do_undo(self, _: str) -> None:
        question = self.session.conversation.take_back()
        first = question.splitlines()[0][:60] if question else ""
        self._note(f"took back: {sanitize(first)}" if question else "nothing to take back")

    def _do_stats(self, argument: str) -> None:
        if argument in ("on", "off"):
            self.stats = argument == "on"
            self._note(f"stats {argument}")
        elif argument:
            self._note(f"/stats takes on or off, not {argument!r}")
        else:
            self._note(self.last.stats() if self.last else "no answer yet")

    def _do_model(self, argument: str) -> None:
        models = self.session.client.models()
        if argument and argument not in models:
            self._note(f"no model {argument!r} here; there is: {', '.join(models)}")
        elif argument:
            self.session.model = argument
            self._note(f"model {argument}")
        else:
            print("\n".join(f"{'*' if name == self.session.model else ' '} {name}" for name in models))

    def _note(self, text: str) -> None:
        """A line of ours, not the model's."""
        print(f"\x1b[2m{text}\x1b[0m" if self._dim else text, flush=True)


def _prompt_session(history: Path) -> PromptSession[str]:
    """The line editor: history in a private file, completion, and Enter that knows an open block."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        if commands.is_open(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()  # the first Ctrl-C throws the line away
        else:
            event.app.exit(exception=KeyboardInterrupt())

    class CommandCompleter(Completer):
        def get_completions(self, document: Document, complete_event: Any) -> Iterator[Completion]:
            return _completions(document.text_before_cursor)

    history.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(history, os.O_CREAT | os.O_APPEND, 0o600))
    return PromptSession(
        history=FileHistory(str(history)),
        completer=CommandCompleter(),
        complete_while_typing=False,
        key_bindings=keys,
        multiline=True,
        prompt_continuation="... ",
    )


def _completions(before: str) -> Iterator[Completion]:
    """Commands after `/`, parameters after `/set `."""
    from prompt_toolkit.completion import Completion

    if before.startswith("/set "):
        word = before.removeprefix("/set ")
        for param in params.PARAMS.values():
            if param.name.startswith(word):
                yield Completion(f"{param.name}=", -len(word), display_meta=param.allowed)
    elif before.startswith("/") and " " not in before:
        for name, (_, meaning) in commands.COMMANDS.items():
            if name.startswith(before[1:]):
                yield Completion(f"/{name}", -len(before), display_meta=meaning)
