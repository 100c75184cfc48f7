"""A chat template as texts to put around messages: the fields that LMDeploy's ChatTemplateConfig has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from deploykit.errors import ConfigError

Capability = Literal["chat", "completion", "infilling", "python"]
CAPABILITIES: tuple[str, ...] = get_args(Capability)

# The texts around messages, in the order in which a conversation meets them.
TEXT_FIELDS = (
    "system",
    "meta_instruction",
    "eosys",
    "user",
    "eoh",
    "assistant",
    "eoa",
    "tool",
    "eotool",
    "separator",
)
MAX_FIELD = 1 << 16  # characters
MAX_STOP_WORDS = 64
MAX_FILE = 1 << 20  # bytes of a file with fields or with a template


class ChatTemplateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fields of a chat template; None leaves a field to the template that `model_name` names.

    `model_name` is a built-in's or a registered template's name; any other name, or None, makes the fields a template
    of their own, which needs `user` and `assistant` at least. `meta_instruction` is the system message of
    conversations that bring none ("" = none). `separator` follows `eoa` between turns. `stop_words` end an answer,
    beside those of the request.

    Raises ConfigError for a value of the wrong type.
    """

    model_name: str | None = None
    system: str | None = None
    meta_instruction: str | None = None
    eosys: str | None = None
    user: str | None = None
    eoh: str | None = None
    assistant: str | None = None
    eoa: str | None = None
    tool: str | None = None
    eotool: str | None = None
    separator: str | None = None
    capability: Capability | None = None
    stop_words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("model_name", *TEXT_FIELDS):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or len(value) > MAX_FIELD):
                raise _wrong(name, f"a text of at most {MAX_FIELD} characters")
        if self.capability is not None and self.capability not in CAPABILITIES:
            raise _wrong("capability", f"one of {', '.join(CAPABILITIES)}")
        if self.stop_words is not None:
            words = self.stop_words
            good = isinstance(words, list | tuple) and len(words) <= MAX_STOP_WORDS
            if not good or not all(isinstance(w, str) and 0 < len(w) <= 256 for w in words):
                raise _wrong("stop_words", f"a list of at most {MAX_STOP_WORDS} texts of 1 to 256 characters")
            msgspec.structs.force_setattr(self, "stop_words", tuple(words))

    def texts(self) -> dict[str, str]:
        """The text fields that are given."""
        return {name: value for name in TEXT_FIELDS if (value := getattr(self, name)) is not None}

    def to_recipe(self) -> dict[str, Any]:
        """The keys of a recipe's `chat` section that mean the same.

        Raises ConfigError for a name that nothing has, where the fields don't make a template by themselves.
        """
        from deploykit.prompt.templates.builtins import unknown
        from deploykit.prompt.templates.resolve import is_known

        chat: dict[str, Any] = {}
        if self.model_name is not None:
            if is_known(self.model_name):
                chat["template"] = self.model_name
            elif not (self.user and self.assistant):
                raise unknown(self.model_name)
        fields: dict[str, Any] = dict(self.texts())
        if self.stop_words is not None:
            fields["stop_words"] = list(self.stop_words)
        if fields:
            chat["fields"] = fields
        if self.capability is not None:
            chat["capability"] = self.capability
        return chat

    def to_sets(self) -> list[str]:
        """The same as `--set` takes it: `chat.KEY=VALUE`."""
        return [
            f"chat.{key}={msgspec.json.encode(value).decode()}" for key, value in self.to_recipe().items()
        ]

    def to_json(self, file_path: str | Path | None = None) -> str:
        """JSON text, also written to `file_path` where one is given."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=4).decode()
        if file_path is not None:
            from deploykit.fsutil import write_atomic

            write_atomic(Path(file_path), text.encode())
        return text

    @classmethod
    def from_json(cls, file_or_string: str | Path) -> ChatTemplateConfig:
        """From a JSON file, or from JSON text (which starts with a brace). Raises ConfigError."""
        if isinstance(file_or_string, str) and file_or_string.lstrip().startswith("{"):
            return parse_fields(file_or_string.encode(), "the JSON text")
        return parse_fields(read_file(Path(file_or_string)), str(file_or_string))


def parse_fields(data: bytes, where: str) -> ChatTemplateConfig:
    """Fields from JSON in LMDeploy's layout. Raises ConfigError, with the key that is wrong."""
    try:
        raw = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the chat template's file isn't a JSON object", where=where, why=str(error)
        ) from None
    if raw.get("model_path") is None:  # LMDeploy writes the key always; its value names another checkpoint
        raw.pop("model_path", None)
    known = ChatTemplateConfig.__struct_fields__
    for key in raw:
        if key not in known:
            raise ConfigError(
                f"`{key[:80]}` is no field of a chat template",
                where=where,
                fix=f"the fields are {', '.join(known)}",
            )
    try:
        return msgspec.convert(raw, type=ChatTemplateConfig)
    except ConfigError as error:
        error.where = where
        raise
    except msgspec.ValidationError as error:
        raise ConfigError(
            "the chat template's file has a wrong value",
            where=where,
            why=str(error),
            fix="every field is a text, `stop_words` a list of texts, and null leaves a field out",
        ) from None


def read_file(path: Path) -> bytes:
    """A template's file, of at most `MAX_FILE` bytes. Raises ConfigError."""
    try:
        with path.open("rb") as f:
            data = f.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ValueError("it is larger than 1 MiB")
        if not data.strip():
            raise ValueError("it is empty")
        data.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the chat template {str(path)!r} can't be read",
            where="chat.template",
            why=(error.strerror if isinstance(error, OSError) else None) or str(error),
            fix="give a .jinja or .json file, relative to the recipe, the name of a built-in "
            "(`deploykit templates list`), or `auto` for the checkpoint's own",
        ) from None
    return data


def _wrong(name: str, needed: str) -> ConfigError:
    return ConfigError(f"ChatTemplateConfig: `{name}` must be {needed}")
