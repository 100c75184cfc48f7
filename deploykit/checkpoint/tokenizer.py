"""A checkpoint's tokenizer.json for the `tokenizers` library: its own, or built from a GGUF's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploykit.checkpoint import gguf
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.files import exists, member, open_regular, read_json
from deploykit.checkpoint.gguf_llama import Metadata
from deploykit.checkpoint.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from deploykit.fsutil import file_lock, write_atomic

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BUILDER_VERSION = 1  # raise it when the same metadata would give another tokenizer
MAX_TOKENIZER_BYTES = 256 << 20
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
# Tokens that end a turn are control tokens, also in files that call them something else; a user's text that
# looks like one must not become one.
_TURN_TOKENS = frozenset(
    {
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|begin_of_text|>",
        "<|end|>",
    }
)


class TokenizerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """`add_bos`: plain text starts with BOS. The tokenizer is used with add_special_tokens=False; whoever encodes
    a plain prompt puts BOS first by itself, and a chat template writes its own."""

    tokenizer_json: Path
    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool = False
    chat_template: str | None = None


def ensure_tokenizer(facts: Facts, cache: Path) -> TokenizerFiles:
    """The tokenizer's file and its special tokens. A GGUF's is built into `cache` the first time.

    Raises CheckpointError where there is none, where it is damaged, or where its kind isn't known.
    """
    if facts.format == "gguf":
        return _from_gguf(facts, cache)
    return _from_folder(facts)


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
        if not _from_library(e):
            raise
        raise CheckpointError("the tokenizer can't be read", file=path, why=printable(str(e), 300)) from None


def _from_library(error: BaseException) -> bool:
    """The `tokenizers` library raises bare Exception, and where its Rust code panics a BaseException."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


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


# ---------------------------------------------------------------- Hugging Face's layout


def _from_folder(facts: Facts) -> TokenizerFiles:
    folder = Path(facts.path)
    if not exists(folder, "tokenizer.json"):
        fix = (
            "make it where you trust the model: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
        raise CheckpointError("the model has no tokenizer.json", file=folder, fix=fix)
    path = member(folder, "tokenizer.json")
    tokenizer = load_tokenizer(path)
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if exists(folder, name):
            settings |= read_json(member(folder, name), MAX_TOKENIZER_BYTES)
    bos = _token_text(settings.get("bos_token"))
    eos = _token_text(settings.get("eos_token"))
    if bos is None and facts.bos_token_id is not None:
        bos = tokenizer.id_to_token(facts.bos_token_id)
    if eos is None and facts.eos_token_ids:
        eos = tokenizer.id_to_token(facts.eos_token_ids[0])
    for role, token in (("bos_token", bos), ("eos_token", eos)):
        if token is not None and tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{role} {printable(token)!r} isn't in the vocabulary", file=path)
    add_bos = settings.get("add_bos_token")
    if not isinstance(add_bos, bool):  # then the post-processor decides
        ids = tokenizer.encode("a", add_special_tokens=True).ids
        add_bos = bos is not None and bool(ids) and ids[0] == tokenizer.token_to_id(bos)
    return TokenizerFiles(
        tokenizer_json=path,
        bos_token=bos,
        eos_token=eos,
        add_bos=add_bos and bos is not None,
        chat_template=facts.chat_template,
    )


def _token_text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


# ---------------------------------------------------------------- GGUF


def _from_gguf(facts: Facts, cache: Path) -> TokenizerFiles:
    path = Path(facts.path)
    header = gguf.read_header(path)
    meta = Metadata(path, header.metadata)
    kind = meta.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise CheckpointError(
            f"the tokenizer {printable(repr(kind))} isn't supported in GGUF files",
            file=path,
            why="supported: gpt2 (byte-level BPE)",
            fix="use the model's checkpoint in safetensors, which brings a tokenizer.json",
        )
    name = meta.text("tokenizer.ggml.pre", "default") or "default"
    pre = PRE_TOKENIZERS.get(name)
    if pre is None:
        raise CheckpointError(
            f"the pre-tokenizer {printable(repr(name))} isn't known",
            file=path,
            why=f"tokenizer.ggml.pre says how text is cut into words; known: {', '.join(PRE_TOKENIZERS)}",
            fix="use the model's checkpoint in safetensors, which brings a tokenizer.json",
        )
    tokens = meta.strings("tokenizer.ggml.tokens")
    if len(tokens) > facts.vocab_size:
        why = f"{len(tokens)} tokens, {facts.vocab_size} rows of embeddings"
        raise CheckpointError("the vocabulary is larger than the model", file=path, why=why)
    target = cache / "tokenizers" / f"{header.digest[:32]}-{BUILDER_VERSION}" / "tokenizer.json"
    if not target.exists():
        with file_lock(cache / "locks" / f"tokenizer-{header.digest[:32]}.lock"):
            if not target.exists():
                built = _build(meta, tokens, pre)
                write_atomic(target, built.to_str().encode())
    add_bos = meta.values.get("tokenizer.ggml.add_bos_token", pre.add_bos)
    bos, eos = (_token(meta, tokens, key) for key in ("bos", "eos"))
    return TokenizerFiles(
        tokenizer_json=target,
        bos_token=bos,
        eos_token=eos,
        add_bos=add_bos is True and bos is not None,
        chat_template=facts.chat_template,
    )


def _token(meta: Metadata, tokens: list[str], key: str) -> str | None:
    index = meta.optional_id(f"tokenizer.ggml.{key}_token_id", len(tokens))
    return None if index is None else tokens[index]


def _build(meta: Metadata, tokens: list[str], pre: PreTokenizer) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens) or "" in vocab:
        raise meta.bad("tokenizer.ggml.tokens", "a token is empty or stands there twice")
    merges: list[tuple[str, str]] = []
    for merge in meta.strings("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if (
            not space
            or not left
            or not right
            or left + right not in vocab
            or left not in vocab
            or right not in vocab
        ):
            raise meta.bad(
                "tokenizer.ggml.merges", f"{printable(merge)!r} isn't a pair of tokens that make a token"
            )
        merges.append((left, right))
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre.whole_words))
        if pre.nfc:
            tokenizer.normalizer = normalizers.NFC()
        cuts: list[Any] = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in pre.patterns]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        plain, special = _added_tokens(meta, tokens)
        tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in plain])
        tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    except CheckpointError:
        raise
    except BaseException as e:
        if not _from_library(e):
            raise
        raise meta.bad("tokenizer.ggml", printable(str(e), 300)) from None
    if tokenizer.get_vocab_size(with_added_tokens=True) != len(tokens):
        raise meta.bad("tokenizer.ggml.tokens", "the special tokens aren't tokens of the vocabulary")
    return tokenizer


def _added_tokens(meta: Metadata, tokens: list[str]) -> tuple[list[str], list[str]]:
    """Tokens found in the text before anything else: (user-defined ones, control ones)."""
    kinds = meta.values.get("tokenizer.ggml.token_type")
    if kinds is None:
        kinds = [_NORMAL] * len(tokens)
    if not isinstance(kinds, list) or len(kinds) != len(tokens) or not all(type(k) is int for k in kinds):
        raise meta.bad("tokenizer.ggml.token_type", f"{len(tokens)} integers are needed, one a token")
    ends = {_token(meta, tokens, key) for key in ("eos", "eot")}
    plain: list[str] = []
    special: list[str] = []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (_UNKNOWN, _CONTROL) or (
            kind == _USER_DEFINED and (token in _TURN_TOKENS or token in ends)
        ):
            special.append(token)
        elif kind == _USER_DEFINED:
            plain.append(token)
    return plain, special
