"""What the small files beside a vocabulary say: added tokens, the special ones' roles, BOS rules, legacy flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import exists, member, read_json
from deploykit.checkpoint.tokenizers.assemble import TURN_TOKENS, Added

MAX_BYTES = 256 << 20
MAX_ID = 1 << 24
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_FILES = ("special_tokens_map.json", "tokenizer_config.json")
# Slow tokenizers whose text begins with BOS although their configuration doesn't say so.
_BOS_CLASSES = (
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "InternLMTokenizer",
    "InternLM2Tokenizer",
    "InternLM3Tokenizer",
    "XverseTokenizer",
    "OrionTokenizer",
)


class Settings(msgspec.Struct, kw_only=True):
    """Merged from special_tokens_map.json, tokenizer_config.json, added_tokens.json and config.json."""

    raw: dict[str, Any]
    added: dict[int, Added]  # by id
    special_names: frozenset[str]  # every token that has a role: bos_token, additional_special_tokens, …
    file: Path  # to name in errors

    def role(self, name: str) -> str | None:
        """The text of a token by its role, such as bos_token."""
        return token_text(self.raw.get(name))

    def flag(self, name: str) -> bool | None:
        value = self.raw.get(name)
        return value if isinstance(value, bool) else None

    @property
    def tokenizer_class(self) -> str:
        value = self.raw.get("tokenizer_class")
        return value.removesuffix("Fast") if isinstance(value, str) else ""

    def add_bos(self, default: bool) -> bool:
        """Whether plain text starts with BOS; `default` where neither the flag nor the class says so."""
        flag = self.flag("add_bos_token")
        if flag is not None:
            return flag
        return self.tokenizer_class in _BOS_CLASSES if self.tokenizer_class else default


def read_settings(folder: Path) -> Settings:
    """Raises CheckpointError where a file is damaged or two of them contradict each other."""
    raw: dict[str, Any] = {}
    last = folder
    for name in _FILES:
        if exists(folder, name):
            last = member(folder, name)
            raw |= read_json(last, MAX_BYTES)
    added = _decoder(raw.get("added_tokens_decoder"), last)
    if exists(folder, "added_tokens.json"):
        path = member(folder, "added_tokens.json")
        for text, i in read_json(path, MAX_BYTES).items():
            if type(i) is not int or not 0 <= i < MAX_ID or not text:
                raise CheckpointError(f"the id of {printable(repr(text))} is wrong", file=path)
            added.setdefault(i, Added(i, text, special=False))
    named = [token_text(raw.get(f"{role}_token")) for role in _ROLES]
    more = raw.get("additional_special_tokens")
    named += [token_text(value) for value in (more if isinstance(more, list) else [])]
    special = frozenset(text for text in named if text) | TURN_TOKENS
    added = {i: t._replace(special=t.special or t.text in special) for i, t in added.items()}
    return Settings(raw=raw, added=added, special_names=special, file=last)


def token_text(value: Any) -> str | None:
    """A token as configurations write it: its text, or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _decoder(value: Any, file: Path) -> dict[int, Added]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError("added_tokens_decoder isn't an object", file=file)
    added: dict[int, Added] = {}
    for key, token in value.items():
        text = token_text(token)
        if not isinstance(token, dict) or text is None or not key.isdecimal() or int(key) >= MAX_ID:
            why = printable(f"{key}: {token!r}")
            raise CheckpointError("added_tokens_decoder has a wrong entry", file=file, why=why)
        flags = {name: token.get(name) is True for name in ("lstrip", "rstrip", "single_word", "normalized")}
        added[int(key)] = Added(int(key), text, special=token.get("special") is True, **flags)
    return added
