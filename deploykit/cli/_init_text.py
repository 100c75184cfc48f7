"""The text that `deploykit init` writes: values with their reasons, and the keys that a person may look for next."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploykit.plan.types import Decision, Plan
    from deploykit.prompt.templates.resolve import Resolved

WIDTH = 100
_MEANING = {
    "engine.session_len": "Tokens of a prompt with its answer",
    "engine.max_batch_size": "Requests that run at once",
    "engine.cache.quant_policy": "Precision of the KV memory",
    "engine.cache.ratio": "Share of the memory left free after weights that KV takes",
    "engine.max_prefill_tokens": "Tokens of one step",
}
# What stays `auto`, with what it is here: the choice goes on to be the machine's.
_LEFT_OPEN = ("engine.backend", "engine.device", "engine.threads", "engine.max_prefill_tokens")


@dataclass(frozen=True)
class Value:
    """A key that is written out, and why it has this value."""

    key: str
    value: Any
    reason: str

    @property
    def comment(self) -> str:
        """The meaning and the reason, in lines."""
        meaning = _MEANING.get(self.key)
        text = f"{meaning}. {_sentence(self.reason)}" if meaning else _sentence(self.reason)
        return "\n".join(textwrap.wrap(text, WIDTH - 4))


def for_model(
    data: Mapping[str, Any],
    name: str,
    plan: Plan,
    values: Iterable[Value],
    template: Resolved | str,
    head: list[str],
    file: Path,
) -> str:
    """A recipe for a model that no recipe tells of; `template` is the chat template, or why there is none."""
    lines = ["#", *(f"# {line}".rstrip() for line in head), "#", *_usage(file), "#"]
    lines += ["# Only `version` and `model` are required. A commented key shows its default."]
    lines += ["# `deploykit schema KEY` explains one, `deploykit schema` alone is for editors."]
    lines += ["", "version: 1", f"name: {name}  # what `ps`, `logs` and `down` call it", ""]
    lines += ["model:", *_indented(_model(data["model"], file)), *_dtype(plan), ""]
    lines += ["engine:", *_engine(plan, list(values)), ""]
    lines += [*_chat(template), "", *_SERVER]
    return "\n".join(lines) + "\n"


def for_recipe(text: str, values: Iterable[Value], head: list[str]) -> str:
    """A recipe's own text with the values written into it."""
    from deploykit.shipped.edit import put

    for value in values:
        text = put(text, tuple(value.key.split(".")), value.value, value.comment)
    lines = text.splitlines()
    first = 1 if lines and lines[0].startswith("# yaml-language-server:") else 0
    note = [*("#" for _ in range(first)), *(f"# {line}".rstrip() for line in head)]
    rest = lines[first:]
    if rest and rest[0].strip() not in ("", "#"):
        note.append("#" if rest[0].startswith("#") else "")
    return "\n".join([*lines[:first], *note, *rest]) + "\n"


def _usage(file: Path) -> Iterator[str]:
    for command, meaning in (
        ("plan", "see what it takes, and why"),
        ("up", "serve it"),
        ("chat", "talk to it"),
    ):
        yield f"#   {f'deploykit {command} {file.name}':<{len(file.name) + 18}} {meaning}"


def _model(model: Mapping[str, Any], file: Path) -> list[str]:
    from deploykit.shipped.edit import written

    path = model.get("path")
    if isinstance(path, str):
        near = Path(path).is_relative_to(file.parent.resolve())
        return written({"path": "./" + os.path.relpath(path, file.parent.resolve()) if near else path})
    lines = written(dict(model))
    if "id" in model:
        lines.append(
            "# revision: main         # a branch, a tag or a commit; `deploykit lock` writes the commit down"
        )
    return lines


def _dtype(plan: Plan) -> Iterator[str]:
    decision = _of(plan, "model.dtype")
    if decision is not None:
        yield from _open("dtype", decision, 2)


def _engine(plan: Plan, values: list[Value]) -> Iterator[str]:
    from deploykit.shipped.edit import in_a_line

    by_section: dict[str, list[Value]] = {}
    for value in values:
        section, _, _ = value.key.rpartition(".")
        by_section.setdefault(section, []).append(value)
    for section, held in by_section.items():
        indent = 2 * len(section.split("."))
        if section != "engine":
            yield f"{' ' * (indent - 2)}{section.rpartition('.')[2]}:"
        for value in held:
            yield from (f"{' ' * indent}# {line}" for line in value.comment.splitlines())
            yield f"{' ' * indent}{value.key.rpartition('.')[2]}: {in_a_line(value.value)}"
    stated = {value.key for value in values}
    left = [d for key in _LEFT_OPEN if key not in stated and (d := _of(plan, key)) is not None]
    if left:
        yield "  # Left open; what it is on this machine stands beside it:"
    for decision in left:
        yield from _open(decision.key.rpartition(".")[2], decision, 2)


def _open(key: str, decision: Decision, indent: int) -> Iterator[str]:
    """`# backend: auto   # native: why`, wrapped."""
    start = f"{' ' * indent}# {key + ': auto':<26}# "
    text = textwrap.wrap(f"{decision.value}: {decision.reason}", WIDTH - len(start))
    yield start + text[0]
    yield from (f"{' ' * indent}#{' ' * 27}#   {line}" for line in text[1:])


def _chat(template: Resolved | str) -> Iterator[str]:
    if isinstance(template, str):
        yield from (f"# {line}" for line in textwrap.wrap(template, WIDTH - 2))
        about = "a built-in's name (`deploykit templates list`), or a file"
    else:
        known = f" {template.name}" if template.name else ""
        about = (
            f"the {template.origin}'s own" if template.origin == "checkpoint" else f"{template.origin}{known}"
        )
    yield "# chat:"
    yield f"#   template: auto         # {about}"
    yield "#   system: null           # a system message for conversations that bring none"
    yield "#   defaults:              # sampling where a request says nothing; null is what the checkpoint says"
    yield "#     temperature: null"
    yield "#     max_tokens: null     # what the session leaves"


_SERVER = [
    "# server:",
    "#   host: 127.0.0.1        # another address than loopback needs api_keys",
    "#   port: 23333            # 0: any free port",
    "#   api_keys: []           # where accepted keys are kept: [{env: DEPLOYKIT_API_KEY}] or [{file: api.key}]",
]


def _of(plan: Plan, key: str) -> Decision | None:
    return next((d for d in plan.decisions if d.key == key), None)


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."
