"""The tokenizer of a model folder: which of the layouts it has, and how it is made into one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts
from deploykit.checkpoint.files import exists, member, open_regular, read_json
from deploykit.checkpoint.pretokenizers import BY_MODEL_TYPE, PRE_TOKENIZERS, PreTokenizer, for_model_type
from deploykit.checkpoint.tokenizers import sentencepiece, tekken, tiktoken, vocab_merges
from deploykit.checkpoint.tokenizers.assemble import Added, add_tokens, library_errors
from deploykit.checkpoint.tokenizers.protobuf import WireError
from deploykit.checkpoint.tokenizers.settings import Settings, read_settings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_BYTES = 256 << 20
SENTENCEPIECE = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
)
TIKTOKEN = ("tiktoken.model",)  # and whatever ends in .tiktoken
_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json", "added_tokens.json")
LOOKED_FOR = (
    "tokenizer.json; " + ", ".join(SENTENCEPIECE) + "; *.tiktoken, tiktoken.model; tekken.json; "
    "vocab.json with merges.txt"
)


class Made(msgspec.Struct):
    tokenizer: Any  # tokenizers.Tokenizer
    bos_token: str | None
    eos_token: str | None
    add_bos: bool


class AsIs(msgspec.Struct):
    """A tokenizer.json."""

    path: Path
    digest: str
    settings: Settings


class Convertible(msgspec.Struct):
    path: Path
    digest: str
    convert: Callable[[], Made]


class Completed(msgspec.Struct):
    changed: bool  # tokens or flags that the file lacked were added
    single: set[str]
    bos_token: str | None
    eos_token: str | None
    add_bos: bool


def find(facts: Facts) -> AsIs | Convertible:
    """The tokenizer of a folder. Raises CheckpointError with what was looked for where there is none."""
    folder = Path(facts.path)
    settings = read_settings(folder)

    def convertible(path: Path, data: bytes, made: Callable[[], Made], *more: bytes) -> Convertible:
        return Convertible(path, _digest(folder, facts, data, *more), made)

    if exists(folder, "tokenizer.json"):
        path = member(folder, "tokenizer.json")
        return AsIs(path, _digest(folder, facts, _read(path)), settings)
    for name in SENTENCEPIECE:
        if exists(folder, name):
            path = member(folder, name)
            data = _read(path)
            make = _from_tiktoken if tiktoken.is_tiktoken(data) else _from_sentencepiece
            return convertible(path, data, partial(make, path, data, facts, settings))
    if (ranks := _tiktoken_file(folder)) is not None:
        data = _read(ranks)
        return convertible(ranks, data, partial(_from_tiktoken, ranks, data, facts, settings))
    if exists(folder, "tekken.json"):
        path = member(folder, "tekken.json")
        return convertible(path, _read(path), partial(_from_tekken, path, facts))
    if exists(folder, "vocab.json") and exists(folder, "merges.txt"):
        path, merges = member(folder, "vocab.json"), member(folder, "merges.txt")
        data = _read(merges)
        make_vocab = partial(_from_vocab, path, merges, data, facts, settings)
        return convertible(path, _read(path), make_vocab, data)
    present = sorted(p.name for p in folder.iterdir() if p.name.startswith(("vocab", "tokeniz")))
    raise CheckpointError(
        "the model has no tokenizer",
        file=folder,
        why=f"looked for: {LOOKED_FOR}" + (f"; there is only {', '.join(present[:5])}" if present else ""),
        fix="make one where you trust the model: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
    )


def _read(path: Path) -> bytes:
    with open_regular(path) as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"the tokenizer is over the limit of {MAX_BYTES} bytes", file=path)
    return data


def _digest(folder: Path, facts: Facts, *parts: bytes) -> str:
    """sha256 over everything that decides what comes out."""
    settings = [_read(member(folder, name)) if exists(folder, name) else b"" for name in _SETTINGS]
    ids = repr((facts.model_type, facts.bos_token_id, facts.eos_token_ids)).encode()
    total = hashlib.sha256()
    for part in (*parts, *settings, ids):
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def _tiktoken_file(folder: Path) -> Path | None:
    names = sorted(p.name for p in folder.iterdir() if p.name.endswith(".tiktoken"))
    if len(names) > 1:
        raise CheckpointError("the folder has several tiktoken files", file=folder, why=", ".join(names[:5]))
    names += [name for name in TIKTOKEN if exists(folder, name)]
    return member(folder, names[0]) if names else None


# ---------------------------------------------------------------- tokenizer.json


def complete(tokenizer: Tokenizer, source: AsIs, facts: Facts) -> Completed:
    """Put into a tokenizer.json what the files beside it add: tokens, and which of them are special."""
    settings, path = source.settings, source.path
    wanted = _beside(tokenizer, settings, path)
    if wanted:
        with library_errors(path, "the tokens of tokenizer_config.json can't be added"):
            add_tokens(tokenizer, wanted, file=path)
    changed = bool(wanted) | _prefix_space(tokenizer, settings)
    bos, eos = _roles(settings, facts, tokenizer.id_to_token)
    for role, token in (("bos_token", bos), ("eos_token", eos)):
        if token is not None and tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{role} {printable(token)!r} isn't in the vocabulary", file=path)
    add_bos = settings.flag("add_bos_token")
    if add_bos is None:  # then the post-processor decides
        with library_errors(path, "the tokenizer fails on plain text"):
            ids = tokenizer.encode("a", add_special_tokens=True).ids
        add_bos = bos is not None and bool(ids) and ids[0] == tokenizer.token_to_id(bos)
    single = {token for token in (bos, eos) if token}
    return Completed(changed, single, bos, eos, add_bos and bos is not None)


def _beside(tokenizer: Tokenizer, settings: Settings, path: Path) -> list[Added]:
    held = tokenizer.get_added_tokens_decoder()
    wanted: dict[str, Added] = {}
    for token in sorted(settings.added.values()):
        i = tokenizer.token_to_id(token.text)
        if i is None and tokenizer.id_to_token(token.id) is not None:
            other = printable(repr(tokenizer.id_to_token(token.id)))
            why = f"tokenizer_config.json gives its id {token.id} to it, tokenizer.json to {other}"
            raise CheckpointError(f"the token {printable(repr(token.text))} has no id", file=path, why=why)
        if i is None or i not in held or (token.special and not held[i].special):
            wanted[token.text] = token._replace(id=token.id if i is None else i)
    for text in sorted(settings.special_names):
        i = tokenizer.token_to_id(text)
        # One character (a padding token "!") is text before it is anything else.
        if i is None or len(text) < 2 or text in wanted or (i in held and held[i].special):
            continue
        old = held.get(i)
        flags = {
            name: getattr(old, name) if old else False
            for name in ("lstrip", "rstrip", "single_word", "normalized")
        }
        wanted[text] = Added(i, text, special=True, **flags)
    return list(wanted.values())


def _prefix_space(tokenizer: Tokenizer, settings: Settings) -> bool:
    """`add_prefix_space` of tokenizer_config.json wins over the byte-level pre-tokenizer's own."""
    flag = settings.flag("add_prefix_space")
    if flag is None or tokenizer.pre_tokenizer is None:
        return False
    from tokenizers import pre_tokenizers

    state: dict[str, Any] = json.loads(tokenizer.pre_tokenizer.__getstate__())
    if state.get("type") != "ByteLevel" or state.get("add_prefix_space") is flag:
        return False
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=flag, use_regex=state["use_regex"])
    return True


def _roles(
    settings: Settings, facts: Facts, token_of: Callable[[int], str | None]
) -> tuple[str | None, str | None]:
    """bos_token and eos_token: what the files say, else config.json's ids."""
    bos, eos = settings.role("bos_token"), settings.role("eos_token")
    if bos is None and facts.bos_token_id is not None:
        bos = token_of(facts.bos_token_id)
    if eos is None and facts.eos_token_ids:
        eos = token_of(facts.eos_token_ids[0])
    return bos, eos


# ---------------------------------------------------------------- what is converted


def _made(
    tokenizer: Tokenizer,
    settings: Settings,
    facts: Facts,
    path: Path,
    *,
    add_bos: bool,
    fallback: tuple[str | None, str | None] = (None, None),
) -> Made:
    bos, eos = _roles(settings, facts, tokenizer.id_to_token)
    bos, eos = bos or fallback[0], eos or fallback[1]
    named = [(role, token) for role, token in (("bos_token", bos), ("eos_token", eos)) if token]
    for role, token in named:
        if tokenizer.token_to_id(token) is None:
            raise CheckpointError(f"{role} {printable(token)!r} isn't in the vocabulary", file=path)
    held = tokenizer.get_added_tokens_decoder()
    ids = {token: tokenizer.token_to_id(token) for _, token in named}
    missing = [Added(i, token, special=True) for token, i in ids.items() if i is not None and i not in held]
    with library_errors(path):
        add_tokens(tokenizer, missing, file=path)
    return Made(tokenizer, bos, eos, settings.add_bos(add_bos) and bos is not None)


def _from_sentencepiece(path: Path, data: bytes, facts: Facts, settings: Settings) -> Made:
    try:
        model = sentencepiece.parse(data)
    except WireError as error:
        raise CheckpointError("not a SentencePiece model", file=path, why=printable(str(error))) from None
    if settings.flag("add_prefix_space") is False:
        model.dummy_prefix = False
    legacy = settings.flag("legacy") is not False
    tokenizer = sentencepiece.build(model, file=path, legacy=legacy, extra=list(settings.added.values()))
    fallback = (model.token(model.bos_id), model.token(model.eos_id))
    return _made(tokenizer, settings, facts, path, add_bos=fallback[0] is not None, fallback=fallback)


def _pre_tokenizer(path: Path, facts: Facts, settings: Settings) -> PreTokenizer:
    name = for_model_type(facts.model_type, settings.tokenizer_class)
    if name is None:
        raise CheckpointError(
            f"no pre-tokenizer is known for {printable(facts.model_type)}",
            file=path,
            why=f"the file doesn't say how text is cut into words; known for: {', '.join(BY_MODEL_TYPE)}",
            fix="make a tokenizer.json where you trust the model: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    return PRE_TOKENIZERS[name]


def _from_tiktoken(path: Path, data: bytes, facts: Facts, settings: Settings) -> Made:
    ranks = tiktoken.parse(data, file=path)
    pre = _pre_tokenizer(path, facts, settings)
    added = [token for token in settings.added.values() if token.text not in ranks]
    if not added:
        known = tiktoken.known_special(facts.model_type, ranks)
        if known is None:
            raise CheckpointError(
                "the special tokens aren't known",
                file=path,
                why=f"tokenizer_config.json has no added_tokens_decoder, and {printable(facts.model_type)} isn't known",
                fix="add tokenizer_config.json with the model's special tokens",
            )
        added = known
    added = tiktoken.with_reserved(facts.model_type, ranks, added)
    tokenizer = tiktoken.build(ranks, pre, added, file=path)
    texts = {token.text for token in added}
    names = (("<|begin_of_text|>", "[BOS]"), ("<|end_of_text|>", "<|endoftext|>", "[EOS]"))
    bos, eos = (next((n for n in options if n in texts), None) for options in names)
    return _made(tokenizer, settings, facts, path, add_bos=pre.add_bos, fallback=(bos, eos))


def _from_tekken(path: Path, facts: Facts) -> Made:
    ranks, added, pre = tekken.parse(read_json(path, MAX_BYTES), file=path)
    tokenizer = tiktoken.build(ranks, pre, added, file=path)
    settings = Settings(raw={}, added={}, special_names=frozenset(), file=path)
    return _made(tokenizer, settings, facts, path, add_bos=True, fallback=("<s>", "</s>"))


def _from_vocab(path: Path, merges: Path, data: bytes, facts: Facts, settings: Settings) -> Made:
    vocab = vocab_merges.parse_vocab(read_json(path, MAX_BYTES), file=path)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError("the file isn't UTF-8 text", file=merges, why=str(error)) from None
    pairs = vocab_merges.parse_merges(text, vocab, file=merges)
    pre = _pre_tokenizer(path, facts, settings)
    added = list(settings.added.values())
    held = {token.id for token in added}
    added += [
        Added(vocab[text], text, special=True)
        for text in sorted(settings.special_names)
        if text in vocab and len(text) > 1 and vocab[text] not in held
    ]
    tokenizer = vocab_merges.build(vocab, pairs, pre, added, file=path)
    return _made(tokenizer, settings, facts, path, add_bos=pre.add_bos)
