"""A built-in's format as data, and the Jinja template that it stands for.

Every built-in becomes a Jinja template: there is one path from messages to a prompt, with one sandbox and one
protection of control tokens, whether a template came with the checkpoint or from here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from deploykit.prompt.templates.fields import Capability, ChatTemplateConfig


class _Variable(str):
    """A name of the template, where other strings are its text."""


_CONTENT, _PENDING = _Variable("content"), _Variable("ns.system")
_NO_TOOLS = "this chat template has no form for tools; use a model whose own chat template has one"
_TEXT_ONLY = "this chat template takes messages of text alone"
_ALTERNATE = "this chat template needs user and assistant messages in turns, a user message first"
_SYSTEM_FIRST = "this chat template takes one system message, and only as the first message"
_SYSTEM_ALONE = (
    "this chat template puts the system message into the user message that follows it, and there is none"
)


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """Texts around messages (see `ChatTemplateConfig`), and what else a published format asks for."""

    name: str
    models: str  # which models speak it, in a line
    system: str = ""
    meta_instruction: str | None = None
    eosys: str = ""
    user: str = ""
    eoh: str = ""
    assistant: str = ""
    eoa: str = ""
    separator: str = ""
    tool: str | None = None  # None: tool messages are refused
    eotool: str = ""
    generation: str | None = None  # what invites the answer; None = `assistant`
    prefix: str = ""  # once, after BOS
    # always: the published format writes BOS itself. tokenizer: where the model's tokenizer puts one before text
    # never: its place is taken by `prefix`
    bos: Literal["always", "tokenizer", "never"] = "tokenizer"
    system_inside: bool = False  # the system text stands in the first user turn, after `user`
    system_always: bool = False  # the system turn is there without a system message too
    trim: tuple[str, ...] = ()  # roles whose content loses the white space around it
    trim_joined: bool = False  # a user message is trimmed together with the system text inside it
    alternates: bool = False  # anything but user, assistant, user, … is refused
    stop_words: tuple[str, ...] = ()
    control: tuple[str, ...] = ()  # tokens that the model's vocabulary must have for the format to be its own
    capability: Capability = "chat"

    def with_fields(self, config: ChatTemplateConfig) -> Format:
        """The same format with the given fields in place of its own."""
        changes: dict[str, object] = dict(config.texts())
        if "assistant" in changes:
            changes["generation"] = None
        if config.meta_instruction == "":
            changes["meta_instruction"] = None
        if config.stop_words is not None:
            changes["stop_words"] = config.stop_words
        return msgspec.structs.replace(self, **changes) if changes else self


def to_jinja(f: Format) -> str:
    """The template's Jinja source. `add_bos_token`, `bos_token` and `tools` come from whoever renders it."""
    lines = [f"{{%- if tools %}}{{{{- raise_exception({_literal(_NO_TOOLS)}) }}}}{{%- endif %}}"]
    if f.bos == "always":
        lines.append("{{- bos_token }}")
    elif f.bos == "tokenizer":
        lines.append("{%- if add_bos_token %}{{- bos_token }}{%- endif %}")
    lines += _emit(f.prefix)
    default = None if f.meta_instruction is None else f"{f.system}{f.meta_instruction}{f.eosys}"
    if default is None and f.system_always:
        default = f"{f.system}{f.eosys}"
    pending = _literal(default if default is not None and f.system_inside else "")
    lines.append(f"{{%- set ns = namespace(system={pending}, turn=0) %}}")
    if default and not f.system_inside:
        lines += [
            "{%- if not messages or messages[0]['role'] not in ('system', 'developer') %}",
            *_emit(default),
            "{%- endif %}",
        ]
    lines += [
        "{%- for message in messages %}",
        "{%- set role = message['role'] %}",
        "{%- set content = message['content'] if message['content'] is not none else '' %}",
        f"{{%- if message['tool_calls'] %}}{{{{- raise_exception({_literal(_NO_TOOLS)}) }}}}{{%- endif %}}",
        f"{{%- if content is not string %}}{{{{- raise_exception({_literal(_TEXT_ONLY)}) }}}}{{%- endif %}}",
    ]
    if f.trim:
        joined = "(ns.system + content) | trim" if f.trim_joined else "content | trim"
        lines.append(f"{{%- if role in {list(f.trim)!r} %}}{{%- set content = {joined} %}}{{%- endif %}}")
    if f.alternates:
        lines += [
            "{%- if role in ('user', 'assistant') %}",
            "{%- if (role == 'user') != (ns.turn % 2 == 0) %}",
            f"{{{{- raise_exception({_literal(_ALTERNATE)}) }}}}",
            "{%- endif %}",
            "{%- set ns.turn = ns.turn + 1 %}",
            "{%- endif %}",
        ]
    lines += [*_system(f), *_turns(f), "{%- endfor %}"]
    if f.system_inside:
        lines += [
            "{%- if ns.system and messages %}",
            f"{{{{- raise_exception({_literal(_SYSTEM_ALONE)}) }}}}",
        ]
        lines.append("{%- endif %}")
    if generation := _emit(f.assistant if f.generation is None else f.generation):
        lines += ["{%- if add_generation_prompt %}", *generation, "{%- endif %}"]
    return "\n".join(lines)


def _system(f: Format) -> list[str]:
    branch = ["{%- if role in ('system', 'developer') %}"]
    if not f.system_inside:
        return [*branch, *_emit(f.system, _CONTENT, f.eosys)]
    return [
        *branch,
        f"{{%- if not loop.first %}}{{{{- raise_exception({_literal(_SYSTEM_FIRST)}) }}}}{{%- endif %}}",
        f"{{%- set ns.system = {_literal(f.system)} + content + {_literal(f.eosys)} %}}",
    ]


def _turns(f: Format) -> list[str]:
    inside = (_PENDING,) if f.system_inside and not f.trim_joined else ()
    lines = ["{%- elif role == 'user' %}", *_emit(f.user, *inside, _CONTENT, f.eoh)]
    if f.system_inside:
        lines.append("{%- set ns.system = '' %}")
    lines += ["{%- elif role == 'assistant' %}", *_emit(f.assistant, _CONTENT, f.eoa + f.separator)]
    if f.tool is not None:
        lines += ["{%- elif role == 'tool' %}", *_emit(f.tool, _CONTENT, f.eotool)]
    else:
        lines += ["{%- elif role == 'tool' %}", f"{{{{- raise_exception({_literal(_NO_TOOLS)}) }}}}"]
    return [
        *lines,
        "{%- else %}",
        "{{- raise_exception('this chat template has no role ' ~ role) }}",
        "{%- endif %}",
    ]


def _emit(*parts: str) -> list[str]:
    """One output of texts and variables; none where there is nothing to write."""
    terms = [str(part) if isinstance(part, _Variable) else _literal(part) for part in parts if part]
    return ["{{- " + " + ".join(terms) + " }}"] if terms else []


def _literal(text: str) -> str:
    """A Jinja string literal."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "'" + "".join(escapes.get(char, char) for char in text) + "'"
