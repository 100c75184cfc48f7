"""`deploykit templates list|show`: chat templates, the built-in ones and those of a recipe or a model."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.cli._options import Profiles, Sets
from deploykit.errors import EXIT_OK, ConfigError, DeploykitError

if TYPE_CHECKING:
    from pathlib import Path

    from deploykit.checkpoint.tokenizer import TokenizerFiles
    from deploykit.prompt.templates.resolve import Resolved

_MAX_MESSAGES = 16 << 20  # bytes
_SAMPLE = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
]


class Action(StrEnum):
    list = "list"
    show = "show"


def templates(
    action: Annotated[
        Action, typer.Argument(metavar="ACTION", help="`list` the built-in ones, or `show` one.")
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="For show: a built-in, a template's file, a recipe, a model folder, a GGUF file or a hub id.",
        ),
    ] = None,
    messages: Annotated[
        str | None,
        typer.Argument(
            metavar="MESSAGES.json",
            help="With --render: a JSON list of messages in place of the sample conversation; - is stdin.",
        ),
    ] = None,
    render: Annotated[
        bool, typer.Option("--render", help="Print the prompt that a conversation becomes, and nothing else.")
    ] = False,
    set_: Sets = None,
    profiles: Profiles = None,
    json_: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> int:
    """List the chat templates that come with deploykit; show one, or the one that a model is served with."""
    if action is Action.list:
        if name is not None or render or set_ or profiles:
            raise ConfigError("`templates list` takes no name", fix="deploykit templates show NAME")
        _list(json_)
        return EXIT_OK
    if name is None:
        raise ConfigError(
            "`templates show` needs a name or a model", fix="`deploykit templates list` shows the names"
        )
    if messages is not None and not render:
        raise ConfigError(
            "messages go with --render", fix=f"deploykit templates show {name} --render {messages}"
        )
    _show(name, set_ or [], profiles or [], render, messages, json_)
    return EXIT_OK


# ---------------------------------------------------------------- list


def _list(as_json: bool) -> None:
    from deploykit.prompt.templates.builtins import ALIASES, BUILTINS, COMPLETION

    others: dict[str, list[str]] = {}
    for alias, target in ALIASES.items():
        others.setdefault(target, []).append(alias)
    rows = [(f.name, f.models, others.get(f.name, []), f.stop_words) for f in BUILTINS.values()]
    rows.append((COMPLETION, "base models: no chat, plain completion alone", others.get(COMPLETION, []), ()))
    if as_json:
        keys = ("name", "models", "aliases", "stop_words")
        _print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    from deploykit.cli._tables import Printer

    out = Printer()
    out.table(
        ((name, f"{models} (also: {', '.join(also)})" if also else models) for name, models, also, _ in rows),
        ("name", "models"),
    )


# ---------------------------------------------------------------- show


def _show(
    name: str, sets: list[str], profiles: list[str], render: bool, messages: str | None, as_json: bool
) -> None:
    found, tokens = _find(name, sets, profiles)
    rendered = _render(found, tokens, _conversation(messages)) if render else None
    if as_json:
        _print_json(
            {
                "name": found.name,
                "origin": found.origin,
                "reason": found.reason,
                "capability": found.capability,
                "stop_words": found.stop_words,
                "notes": found.notes,
                "python": found.python,
                "source": found.source,
                "rendered": rendered,
            }
        )
    elif rendered is not None:
        from deploykit.cli._output import safe

        print(safe(rendered))
    else:
        _print_template(found)


def _find(name: str, sets: list[str], profiles: list[str]) -> tuple[Resolved, TokenizerFiles | None]:
    """The template by that name, or the one that the target is served with, with its model's special tokens."""
    from deploykit.prompt.templates.builtins import unknown
    from deploykit.prompt.templates.resolve import FILE_ENDINGS, Choice, ModelClues, is_known, resolve

    if is_known(name) or name.lower().endswith(FILE_ENDINGS):
        if sets or profiles:
            option = "--set" if sets else "--profile"
            raise ConfigError(f"{option} goes with a recipe or a model", where=f"templates show {name}")
        return resolve(Choice(template=name), ModelClues(architecture="")), None
    from deploykit.deployment.target import open_target

    try:
        loaded = open_target(name, sets=sets, profiles=profiles)
    except ConfigError as error:
        raise (unknown(name) if error.what.startswith("there is no ") else error) from None
    return _of_model(name, loaded)


def _of_model(name: str, loaded: Any) -> tuple[Resolved, TokenizerFiles]:
    import msgspec

    from deploykit.checkpoint.tokenizer import ensure_tokenizer
    from deploykit.deployment.facts import find_on_disk
    from deploykit.deployment.templates import choose_template
    from deploykit.fsutil import cache_dir

    found = find_on_disk(loaded, cache_dir())
    if found is None:
        raise DeploykitError(
            f"the model of {loaded.name} is not on this disk",
            where=name,
            why="its template is among its files, and `templates show` downloads nothing",
            fix=f"deploykit plan {name} --fetch",
        )
    tokens = ensure_tokenizer(found.facts, cache_dir())

    def tokenizer_json() -> Path:
        return tokens.tokenizer_json

    chosen = choose_template(loaded, found.facts, tokenizer_json)
    system = loaded.recipe.chat.system
    return chosen if system is None else msgspec.structs.replace(chosen, system=system), tokens


def _conversation(path: str | None) -> list[dict[str, Any]]:
    """The messages of a JSON file: a list, or an object that has them under `messages`, as a request does."""
    import json
    import sys
    from pathlib import Path

    if path is None:
        return _SAMPLE
    try:
        raw = sys.stdin.buffer.read(_MAX_MESSAGES) if path == "-" else Path(path).read_bytes()
        data = json.loads(raw)
    except (OSError, ValueError, RecursionError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError("the messages can't be read", where=path, why=why) from None
    if isinstance(data, dict):
        data = data.get("messages")
    good = isinstance(data, list) and data and all(isinstance(m, dict) and "role" in m for m in data)
    if not good:
        raise ConfigError(
            "this is no conversation",
            where=path,
            why='a list of messages is needed, such as [{"role": "user", "content": "Hello"}]',
        )
    return [{"content": None, **message} for message in data]


def _render(found: Resolved, tokens: TokenizerFiles | None, messages: list[dict[str, Any]]) -> str:
    from deploykit.prompt.errors import PromptError
    from deploykit.prompt.templates.open import open_template

    template = open_template(
        source=found.source,
        python=found.python,
        name=found.name,
        bos_token="<bos>" if tokens is None else tokens.bos_token,
        eos_token="<eos>" if tokens is None else tokens.eos_token,
        add_bos=tokens is not None and tokens.add_bos,
    )
    if template is None:
        raise ConfigError("there is no template to render", why=found.reason)
    if found.system is not None and not any(m["role"] == "system" for m in messages):
        messages = [{"role": "system", "content": found.system}, *messages]
    try:
        return template.render(messages)
    except PromptError as error:
        raise DeploykitError("the template doesn't take these messages", why=error.message) from None


def _print_template(found: Resolved) -> None:
    from deploykit.cli._output import safe
    from deploykit.cli._tables import Printer
    from deploykit.prompt.templates.builtins import BUILTINS
    from deploykit.prompt.templates.fields import TEXT_FIELDS

    out = Printer()
    out.line(f"{found.name}: {found.reason}", style="bold")
    for note in found.notes:
        out.line(f"note: {note}")
    rows: list[tuple[str, str]] = [("capability", found.capability)]
    if found.stop_words:
        rows.append(("stop_words", " ".join(map(_quoted, found.stop_words))))
    if found.python is not None:
        rows.append(("python", found.python or "this program"))
    out.table(rows, ("", ""))
    made = BUILTINS.get(found.name) if found.origin == "built-in" else None
    if made is not None:
        out.heading("Fields, before any change")
        fields = ((name, getattr(made, name)) for name in TEXT_FIELDS)
        out.table(((name, _quoted(value)) for name, value in fields if value), ("", ""))
    if found.source is not None:
        out.heading("Jinja")
        out.flush()
        print(safe(found.source))


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def _print_json(data: Any) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
