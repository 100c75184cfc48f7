"""The bytes that each token stands for, by the kind of decoder that a tokenizer.json names."""

from __future__ import annotations

import json
from typing import Any, Literal

Kind = Literal["byte_level", "sentencepiece", "other"]

_METASPACE = "▁"


def decoder_kind(decoder: Any) -> Kind:
    """How tokens become text: `other` where a token's bytes can't be told without its neighbours."""
    if decoder is None:
        return "other"
    steps = _steps(json.loads(decoder.__getstate__()))
    names = [str(step.get("type")) for step in steps]
    if names == ["ByteLevel"]:
        return "byte_level"
    known = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
    marks_spaces = any(
        step.get("type") == "Metaspace"
        or (
            step.get("type") == "Replace"
            and step.get("pattern") == {"String": _METASPACE}
            and step.get("content") == " "
        )
        for step in steps
    )
    return "sentencepiece" if marks_spaces and set(names) <= known else "other"


def falls_back_to_bytes(decoder: Any) -> bool:
    """Whether `<0x0A>` is a byte and not that text."""
    if decoder is None:
        return False
    return any(step.get("type") == "ByteFallback" for step in _steps(json.loads(decoder.__getstate__())))


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    if state.get("type") == "Sequence":
        return [step for child in state["decoders"] for step in _steps(child)]
    return [state]


def _byte_level_alphabet() -> dict[str, int]:
    """Character to byte, as byte-level BPE writes bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet


_ALPHABET = _byte_level_alphabet()


def byte_level_bytes(token: str) -> bytes:
    """A token of a byte-level vocabulary; characters outside its alphabet (added tokens) stand for themselves."""
    try:
        return bytes([_ALPHABET[char] for char in token])
    except KeyError:
        return token.encode()


def sentencepiece_bytes(token: str, byte_tokens: bool = True) -> bytes:
    """A SentencePiece token: `▁` is a space, `<0x0A>` one byte where the vocabulary has `byte_tokens`."""
    if byte_tokens and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass  # no byte token after all
    return token.replace(_METASPACE, " ").encode()
