"""The one decision: which chat template a model is served with, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from deploykit.errors import ConfigError
from deploykit.prompt.templates.builtins import ALIASES, BUILTINS, COMPLETION, builtin, names, unknown
from deploykit.prompt.templates.fields import (
    Capability,
    ChatTemplateConfig,
    parse_fields,
    read_file,
)
from deploykit.prompt.templates.format import Format, to_jinja
from deploykit.prompt.templates.infill import find_family
from deploykit.prompt.templates.match import match
from deploykit.prompt.templates.registry import is_file, registered, source_of

AUTO = "auto"
DEFAULT = "default"  # the name of a checkpoint's template for plain chat
TOOL_USE = "tool_use"
FILE_ENDINGS = (".jinja", ".jinja2", ".j2", ".json", ".txt")
PYTHON_SYSTEM = "Provide answers in Python"  # the system message of chat.capability python
_SHOWN_NAMES = 4

Origin = Literal["checkpoint", "built-in", "file", "fields", "python", "none"]


@dataclass(frozen=True)
class Choice:
    """What a person asked for: a recipe's `chat` section."""

    template: str = AUTO  # auto, auto:NAME, a built-in's or a registered name, or a file
    fields: ChatTemplateConfig | None = None
    python: str | None = None
    capability: Capability | None = None


@dataclass(frozen=True)
class ModelClues:
    """What is known of a checkpoint. `own` are its templates by name, the one for plain chat under "default"."""

    architecture: str
    names: tuple[str, ...] = ()  # hub id, folder, file: what may say how the model was tuned
    own: Mapping[str, str] = field(default_factory=dict)
    own_from: str = ""  # the file that `own` was read from
    has_token: Callable[[str], bool] | None = None  # whether the vocabulary has it; None = not known


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, as plain data. `source` is Jinja; a `python` template has none, and `origin` none neither."""

    name: str
    origin: Origin
    reason: str
    capability: Capability
    source: str | None = None
    python: str | None = None
    system: str | None = None  # the system message of conversations that bring none
    stop_words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what a person should know

    @property
    def chat(self) -> bool:
        return self.origin != "none"


def is_path(template: str) -> bool:
    """Whether `chat.template` names a file."""
    return template.lower().endswith(FILE_ENDINGS) or "/" in template or "\\" in template


def _is_auto(template: str) -> bool:
    return template == AUTO or template.startswith(f"{AUTO}:")


def is_known(name: str) -> bool:
    """Whether a built-in or a class registered in this process is called so."""
    plain = name.strip().lower()
    return plain in BUILTINS or plain in ALIASES or plain == COMPLETION or name in registered()


def check_choice(choice: Choice) -> None:
    """What can be refused before a model is looked at. Raises ConfigError."""
    if choice.python is not None:
        _check_python(choice)
    elif is_path(choice.template):
        _from_file(choice)
    elif not _is_auto(choice.template) and not is_known(choice.template):
        raise unknown(choice.template)
    elif choice.template == AUTO and choice.fields is not None and choice.fields.texts():
        _own_fields(choice.fields, "chat.fields")


def resolve(choice: Choice, model: ModelClues) -> Resolved:
    """Decide. Raises ConfigError where the choice is wrong, and where nothing fits: never raw completion instead."""
    found = _resolve(choice, model)
    if found.capability == "infilling" and model.has_token is not None:
        find_family(model.has_token)
    return found


def _resolve(choice: Choice, model: ModelClues) -> Resolved:
    if choice.capability == "completion":
        check_choice(choice)
        return _no_chat(choice, "chat.capability is completion: only plain completion is served")
    if choice.python is not None:
        _check_python(choice)
        name = "" if choice.template == AUTO else choice.template
        found = _make(choice, name=name or Path(choice.python).stem, origin="python", python=choice.python)
        return msgspec.structs.replace(found, name=name, reason=f"a class from {choice.python}")
    if is_path(choice.template):
        return _from_file(choice, model)
    if _is_auto(choice.template):
        return _automatic(choice, model)
    return _named(choice, choice.template, choice.fields, model, "chat.template names it")


def _automatic(choice: Choice, model: ModelClues) -> Resolved:
    if choice.fields is not None and choice.fields.texts():
        return _own_fields(choice.fields, "chat.fields", choice)
    name = choice.template.partition(":")[2] or DEFAULT
    if own := _own(model.own, name):
        called = "" if name == DEFAULT else f", the one called {name}"
        reason = f"the checkpoint's own, from {model.own_from or 'its files'}{called}"
        return _make(choice, name="checkpoint", origin="checkpoint", source=own, reason=reason)
    if model.own and (name != DEFAULT or len(model.own) > 1):
        raise ConfigError(
            f"the checkpoint has no chat template called {name}",
            where="chat.template",
            why=f"it has {', '.join(sorted(model.own))}",
            fix=f"name one of them: `chat.template: auto:{sorted(model.own)[0]}`",
        )
    if name != DEFAULT:
        raise ConfigError("the checkpoint has no chat templates of its own", where="chat.template")
    if found := match(model.architecture, model.names, model.has_token):
        reason = f"the checkpoint brings none, and a {model.architecture} called {found.name} was tuned on this one"
        return _named(choice, found.template, choice.fields, model, reason)
    if choice.capability in ("infilling", "python"):
        return _no_chat(choice, f"the checkpoint has no chat template; {choice.capability} needs none")
    tuned = ", ".join(model.names[:_SHOWN_NAMES]) or "no name"
    raise ConfigError(
        "the checkpoint has no chat template, and no built-in is known to fit it",
        where="chat.template",
        why=f"looked at: {model.architecture}, {tuned}; built-in: {', '.join(names())}",
        fix="name the one that the model was tuned with, as in `chat.template: chatml`, or give a .jinja file; "
        "a base model is served with `chat.capability: completion`, on /v1/completions alone",
    )


def _own(own: Mapping[str, str], name: str) -> str | None:
    """A template of the checkpoint; the one for tools beside the default one takes over where there are tools."""
    source = own.get(name)
    if source is None and name == DEFAULT and len(own) == 1:
        return next(iter(own.values()))
    if source is None or name != DEFAULT or TOOL_USE not in own:
        return source
    tools, plain = (text.removesuffix("\n") for text in (own[TOOL_USE], source))
    return f"{{%+ if tools +%}}{tools}{{%+ else +%}}{plain}{{%+ endif +%}}"


def _named(
    choice: Choice, name: str, fields: ChatTemplateConfig | None, model: ModelClues | None, reason: str
) -> Resolved:
    """A built-in, or a class registered in this process."""
    if name in registered():
        if fields is not None and fields.texts():
            raise _class_and_fields()
        return _make(choice, name=name, origin="python", python=source_of(name), reason=reason)
    if ALIASES.get(name.strip().lower(), name.strip().lower()) == COMPLETION:
        if choice.capability == "chat" or (fields is not None and fields.texts()):
            raise ConfigError(
                "`completion` is no template for chat",
                where="chat.template",
                fix="name the template that the model was tuned with, or leave out what asks for chat",
            )
        return _no_chat(choice, reason)
    made = builtin(name)
    if fields is not None:
        made = made.with_fields(fields)
    return _of_format(choice, made, "built-in", reason, model)


def _of_format(
    choice: Choice, made: Format, origin: Origin, reason: str, model: ModelClues | None
) -> Resolved:
    notes: tuple[str, ...] = ()
    if model is not None and model.has_token is not None:
        missing = [token for token in made.control if not model.has_token(token)]
        if missing:
            notes = (f"not in this model's vocabulary, and so plain text to it: {' '.join(missing)}",)
    return _make(
        choice,
        name=made.name,
        origin=origin,
        source=to_jinja(made),
        reason=reason,
        stops=made.stop_words,
        notes=notes,
    )


def _own_fields(fields: ChatTemplateConfig, where: str, choice: Choice | None = None) -> Resolved:
    """Fields without a built-in under them: a template of their own."""
    if not fields.user or not fields.assistant:
        raise ConfigError(
            "the fields don't make a chat template",
            where=where,
            why="`user` and `assistant` are needed at least, where no built-in is named to take the others from",
            fix="add them, or name the built-in that the fields change: `chat.template: chatml`",
        )
    name = fields.model_name or "fields"
    made = Format(name=name, models="").with_fields(fields)
    return _of_format(choice or Choice(), made, "fields", f"made of the fields in {where}", None)


def _from_file(choice: Choice, model: ModelClues | None = None) -> Resolved:
    path = Path(choice.template)
    data = read_file(path)
    reason = f"chat.template names the file {path.name}"
    if path.suffix.lower() != ".json":
        return _of_source(choice, data.decode(), path, reason)
    loaded = _json(data, str(path))
    if isinstance(loaded, str):
        return _of_source(choice, loaded, path, reason)
    given = choice.fields or ChatTemplateConfig()
    merged = ChatTemplateConfig(
        **{k: getattr(loaded if getattr(given, k) is None else given, k) for k in loaded.__struct_fields__}
    )
    asked = Choice(template=choice.template, fields=merged, capability=choice.capability or loaded.capability)
    name = merged.model_name
    if asked.capability == "completion":
        return _no_chat(asked, f"{reason}, whose capability is completion")
    if name is not None and is_known(name):
        return _named(asked, name, merged, model, f"{reason}, which names {name}")
    if name is not None and not (merged.user and merged.assistant):
        raise unknown(name)
    return _own_fields(merged, path.name, asked)


def _json(data: bytes, where: str) -> ChatTemplateConfig | str:
    """Fields in LMDeploy's layout, or the Jinja source in a Hugging Face chat_template.json."""
    try:
        raw: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        raw = None
    if isinstance(raw, dict) and isinstance(raw.get("chat_template"), str):
        return cast(str, raw["chat_template"])
    return parse_fields(data, where)


def _of_source(choice: Choice, source: str, path: Path, reason: str) -> Resolved:
    if choice.fields is not None and choice.fields.texts():
        raise ConfigError(
            "fields can't change a Jinja template",
            where="chat.fields",
            fix="change the file, or name the built-in that the fields change; `stop_words` goes with both",
        )
    from deploykit.prompt.template import ChatTemplate

    ChatTemplate(source, where=str(path))  # a mistake in it is told now, with its line
    return _make(choice, name=path.name, origin="file", source=source, reason=reason)


def _check_python(choice: Choice) -> None:
    built_in = is_known(choice.template) and choice.template not in registered()
    if is_path(choice.template) or built_in:
        raise ConfigError(
            f"chat.template names {'a built-in' if built_in else 'a file'} beside chat.python",
            where="chat.template",
            fix="give the name that the Python file registers, or leave one of the two out",
        )
    if choice.fields is not None and choice.fields.texts():
        raise _class_and_fields()
    if choice.capability == "completion":
        raise ConfigError("chat.capability completion uses no template", where="chat.python", fix="remove it")
    if choice.python is not None and is_file(choice.python) and not Path(choice.python).is_file():
        raise ConfigError(
            "the Python file of the chat template is missing", where=f"chat.python: {choice.python}"
        )


def _class_and_fields() -> ConfigError:
    return ConfigError(
        "fields can't change a template that is a class",
        where="chat.fields",
        fix="change the class; `stop_words` goes with both",
    )


def _no_chat(choice: Choice, reason: str) -> Resolved:
    return Resolved(
        name=COMPLETION, origin="none", reason=reason, capability=choice.capability or "completion"
    )


def _make(
    choice: Choice,
    *,
    name: str,
    origin: Origin,
    source: str | None = None,
    python: str | None = None,
    reason: str = "",
    stops: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Resolved:
    asked = choice.fields.stop_words if choice.fields is not None else None
    return Resolved(
        name=name,
        origin=origin,
        reason=reason,
        capability=choice.capability or "chat",
        source=source,
        python=python,
        system=PYTHON_SYSTEM if choice.capability == "python" else None,
        stop_words=stops if asked is None else asked,
        notes=notes,
    )
