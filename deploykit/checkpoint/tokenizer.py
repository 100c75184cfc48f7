"""A checkpoint's tokenizer.json for the `tokenizers` library: its own, or converted once from what it brings.

Looked for in this order: tokenizer.json; a SentencePiece model; a tiktoken file; Mistral's tekken.json; vocab.json with
merges.txt; for a GGUF file, its metadata. Whatever it is passes `tokenizers.probe` before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploykit.checkpoint import gguf
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.files import open_regular
from deploykit.checkpoint.gguf_metadata import Metadata
from deploykit.checkpoint.tokenizers import folder, ggml, probe
from deploykit.checkpoint.tokenizers.assemble import from_library
from deploykit.fsutil import file_lock, write_atomic

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BUILDER_VERSION = 2  # raise it when the same files would give another tokenizer
MAX_TOKENIZER_BYTES = 256 << 20


class TokenizerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """`add_bos`: plain text starts with BOS. The tokenizer is used with add_special_tokens=False; whoever encodes
    a plain prompt puts BOS first by itself, and a chat template writes its own."""

    tokenizer_json: Path
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    chat_template: str | None = None


class _Converted(msgspec.Struct, frozen=True):
    """What is kept beside a converted tokenizer.json."""

    bos_token: str | None
    eos_token: str | None
    add_bos: bool


def ensure_tokenizer(facts: Facts, cache: Path) -> TokenizerFiles:
    """The tokenizer's file and its special tokens. What has to be converted is put into `cache` the first time.

    Raises CheckpointError where there is none (with what was looked for), where it is damaged or fails its check,
    or where its kind isn't supported.
    """
    if facts.format == "gguf":
        return _from_gguf(facts, cache)
    return _from_folder(facts, cache)


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json, checked for its size before it is parsed."""
    from tokenizers import Tokenizer

    with open_regular(path) as f:
        data = f.read(MAX_TOKENIZER_BYTES + 1)
    if len(data) > MAX_TOKENIZER_BYTES:
        raise CheckpointError(f"the tokenizer is over the limit of {MAX_TOKENIZER_BYTES} bytes", file=path)
    try:
        return Tokenizer.from_str(data.decode())
    except BaseException as e:
        if not from_library(e):
            raise
        raise CheckpointError("the tokenizer can't be read", file=path, why=printable(str(e), 300)) from None


def encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of text from a user: what looks like a special token in it stays text.

    `encode_special_tokens` is the library's own switch; it is a property of the tokenizer, so a process that also
    encodes templates (special tokens on) sets it for each call, as here, or keeps two tokenizers.
    """
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    finally:
        tokenizer.encode_special_tokens = before


# ---------------------------------------------------------------- sources


def _from_folder(facts: Facts, cache: Path) -> TokenizerFiles:
    source = folder.find(facts)
    if isinstance(source, folder.AsIs):
        tokenizer = load_tokenizer(source.path)
        completed = folder.complete(tokenizer, source, facts)
        probe.check(tokenizer, file=source.path, single=completed.single)
        path = source.path
        if completed.changed:
            path = _target(cache, source.digest)
            if not path.exists():
                write_atomic(path, tokenizer.to_str().encode())
        return TokenizerFiles(
            tokenizer_json=path,
            bos_token=completed.bos_token,
            eos_token=completed.eos_token,
            add_bos=completed.add_bos,
            chat_template=facts.chat_template,
        )
    return _converted(source.convert, source.digest, source.path, facts, cache)


def _from_gguf(facts: Facts, cache: Path) -> TokenizerFiles:
    path = Path(facts.path)
    header = gguf.read_header(path)
    parsed = ggml.read(Metadata(path, header.metadata), facts.vocab_size)

    def convert() -> folder.Made:
        return folder.Made(
            tokenizer=parsed.build(), bos_token=parsed.bos, eos_token=parsed.eos, add_bos=parsed.add_bos
        )

    return _converted(convert, header.digest, path, facts, cache)


def _target(cache: Path, digest: str) -> Path:
    return cache / "tokenizers" / f"{digest[:32]}-{BUILDER_VERSION}" / "tokenizer.json"


def _converted(
    convert: Callable[[], folder.Made], digest: str, file: Path, facts: Facts, cache: Path
) -> TokenizerFiles:
    """The converted tokenizer in the cache, made and checked when it isn't there."""
    target = _target(cache, digest)
    about = target.with_name("about.json")
    if not target.exists():
        with file_lock(cache / "locks" / f"tokenizer-{digest[:32]}.lock"):
            if not target.exists():
                made = convert()
                probe.check(
                    made.tokenizer, file=file, single=[t for t in (made.bos_token, made.eos_token) if t]
                )
                kept = _Converted(made.bos_token, made.eos_token, made.add_bos)
                write_atomic(about, msgspec.json.encode(kept))
                write_atomic(target, made.tokenizer.to_str().encode())
    try:
        kept = msgspec.json.decode(about.read_bytes(), type=_Converted)
    except (OSError, msgspec.MsgspecError) as error:
        fix = f"remove {target.parent}; it is made again"
        raise CheckpointError(
            "the converted tokenizer is damaged", file=about, why=str(error), fix=fix
        ) from None
    return TokenizerFiles(
        tokenizer_json=target,
        bos_token=kept.bos_token,
        eos_token=kept.eos_token,
        add_bos=kept.add_bos,
        chat_template=facts.chat_template,
    )
