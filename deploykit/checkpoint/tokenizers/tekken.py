"""Mistral's tekken.json: tiktoken's ranks in JSON, behind a block of special tokens that come first by id."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.pretokenizers import PreTokenizer
from deploykit.checkpoint.tokenizers.assemble import Added
from deploykit.checkpoint.tokenizers.tiktoken import BYTE_NAMES, MAX_TOKENS, byte_level_name

# What the first ids mean in files that don't list them.
_SPECIAL = (
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)


def parse(content: dict[str, Any], *, file: Path) -> tuple[dict[str, int], list[Added], PreTokenizer]:
    """(byte-level name -> id, special tokens, pre-tokenizer). Raises CheckpointError."""

    def bad(why: str) -> CheckpointError:
        return CheckpointError("the tekken file is damaged", file=file, why=why)

    config = content.get("config")
    vocab = content.get("vocab")
    if not isinstance(config, dict) or not isinstance(vocab, list):
        raise bad("config or vocab is missing")
    pattern = config.get("pattern")
    total, reserved = config.get("default_vocab_size"), config.get("default_num_special_tokens")
    if not isinstance(pattern, str) or type(total) is not int or type(reserved) is not int:
        raise bad("config has no pattern, default_vocab_size or default_num_special_tokens")
    if not 0 < reserved < total <= MAX_TOKENS or total - reserved > len(vocab):
        raise bad(f"{total} tokens, {reserved} of them special, {len(vocab)} in the vocabulary")
    ids: dict[str, int] = {}
    for rank, token in enumerate(vocab[: total - reserved]):
        try:
            if token["rank"] != rank:
                raise ValueError(f"rank {token['rank']}")
            name = byte_level_name(base64.b64decode(token["token_bytes"], validate=True))
        except (TypeError, KeyError, ValueError, binascii.Error) as error:
            raise bad(f"token {rank}: {printable(repr(error))}") from None
        if not name or name in ids:
            raise bad(f"token {rank} is empty or stands there twice")
        ids[name] = reserved + rank
    if any(name not in ids for name in BYTE_NAMES):
        raise bad("some bytes have no token")
    return ids, _special(content.get("special_tokens"), reserved, bad), PreTokenizer((pattern,))


def _special(listed: Any, reserved: int, bad: Any) -> list[Added]:
    names = {i: name for i, name in enumerate(_SPECIAL[:reserved])}
    if isinstance(listed, list):
        names = {}
        for token in listed:
            if (
                not isinstance(token, dict)
                or type(token.get("rank")) is not int
                or not token.get("token_str")
            ):
                raise bad("special_tokens has a wrong entry")
            if not 0 <= token["rank"] < reserved or not isinstance(token["token_str"], str):
                raise bad(f"a special token with rank {token['rank']}")
            names[token["rank"]] = token["token_str"]
    if len(set(names.values())) != len(names):
        raise bad("a special token stands there twice")
    return [Added(i, names.get(i, f"<SPECIAL_{i}>"), special=True) for i in range(reserved)]
