"""What a line typed at the prompt means: a message, or one of a few commands."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

COMMANDS: dict[str, tuple[str, str]] = {  # name -> (argument, meaning)
    "help": ("", "this list"),
    "set": ("k=v", "set a sampling parameter; k=default unsets it"),
    "params": ("", "sampling parameters, their values and ranges"),
    "system": ("[TEXT]", "system message from here on; no text removes it"),
    "clear": ("", "forget the conversation, keep the system message"),
    "retry": ("", "answer the last message again"),
    "undo": ("", "take back the last message and its answer"),
    "stats": ("[on|off]", "the line of figures after each answer"),
    "model": ("[NAME]", "which models there are; switch to another"),
    "bye": ("", "leave (also Ctrl-D)"),
}
ALIASES = {"?": "help", "exit": "bye", "quit": "bye"}
BLOCK = '"""'


@dataclass(frozen=True)
class Message:
    text: str


@dataclass(frozen=True)
class Command:
    name: str
    argument: str = ""


@dataclass(frozen=True)
class Unknown:
    name: str
    suggestion: str | None


def parse(line: str) -> Message | Command | Unknown | None:
    """What was typed; None when it is blank. `//` sends a text that starts with `/`."""
    text = _unwrap(line)
    if not text.strip():
        return None
    if line.lstrip().startswith(BLOCK):
        return Message(text)
    if text.startswith("//"):
        return Message(text[1:])
    if not text.startswith("/"):
        return Message(text)
    name, _, argument = text[1:].partition(" ")
    if "\n" in name:  # a newline ends the name as a space does
        name, _, rest = name.partition("\n")
        argument = f"{rest} {argument}".strip()
    name = ALIASES.get(name, name).lower()
    if name in COMMANDS:
        return Command(name, argument.strip())
    near = difflib.get_close_matches(name, [*COMMANDS, *ALIASES], n=1, cutoff=0.5)
    return Unknown(name, near[0] if near else None)


def is_open(text: str) -> bool:
    """Whether Enter goes on with the next line: a trailing backslash, or an open triple-quoted block."""
    stripped = text.strip()
    if stripped.startswith(BLOCK):
        return len(stripped) < 2 * len(BLOCK) or not stripped.endswith(BLOCK)
    return text.endswith("\\") and not text.endswith("\\\\")


def _unwrap(line: str) -> str:
    """Without the marks of multi-line input."""
    stripped = line.strip()
    if stripped.startswith(BLOCK):
        body = stripped.removeprefix(BLOCK)
        return body.removesuffix(BLOCK).strip("\n")
    return line.replace("\\\n", "\n").strip()


def help_text() -> str:
    rows = [(f"/{name} {argument}".strip(), meaning) for name, (argument, meaning) in COMMANDS.items()]
    lines = [f"  {usage:<18} {meaning}" for usage, meaning in rows]
    lines += [
        '  Alt-Enter, a trailing \\ or a """ block: more than one line',
        "  //TEXT sends a message that starts with /",
        "  Ctrl-C stops an answer; at the prompt it leaves",
    ]
    return "\n".join(lines)
