"""SentencePiece models (`tokenizer.model`): BPE and unigram, read by a parser of our own and built as a tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.tokenizers.assemble import (
    BYTE_TOKENS,
    SPACE,
    TURN_TOKENS,
    Added,
    add_tokens,
    library_errors,
    spaced,
    spaced_bpe,
    unigram,
    with_added,
)
from deploykit.checkpoint.tokenizers.charsmap import CharsmapError, normalizers_for
from deploykit.checkpoint.tokenizers.merges import TooMuchWork, merges_of
from deploykit.checkpoint.tokenizers.protobuf import WireError, fields

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
MAX_PIECES = 2_000_000


class SentencePieceModel(msgspec.Struct, kw_only=True):
    """What a model file says. `pieces`: (text, score, kind) by id."""

    pieces: list[tuple[str, float, int]] = []
    kind: str = "unigram"
    byte_fallback: bool = False
    space_as_suffix: bool = False
    unknown_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    charsmap: bytes = b""
    dummy_prefix: bool = True
    collapse_spaces: bool = True
    escape_spaces: bool = True
    denormalizes: bool = False

    def token(self, token_id: int) -> str | None:
        return self.pieces[token_id][0] if 0 <= token_id < len(self.pieces) else None


# ---------------------------------------------------------------- reading


def parse(data: bytes) -> SentencePieceModel:
    """A ModelProto. Raises WireError where it isn't one."""
    model = SentencePieceModel(pieces=[])
    for field in fields(data):
        match field.number:
            case 1:
                if len(model.pieces) >= MAX_PIECES:
                    raise WireError(f"more than {MAX_PIECES} pieces")
                model.pieces.append(_piece(field.data()))
            case 2:
                _trainer(model, field.data())
            case 3:
                _normalizer(model, field.data())
            case 5:
                model.denormalizes = any(f.number == 2 and f.data() for f in fields(field.data()))
    if not model.pieces:
        raise WireError("no pieces")
    return model


def _piece(message: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for field in fields(message):
        match field.number:
            case 1:
                text = field.text()
            case 2:
                score = field.float32()
            case 3:
                kind = field.integer()
    if not text or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
        raise WireError(f"the piece {printable(repr(text))} has score {score} and kind {kind}")
    return text, score, kind


def _trainer(model: SentencePieceModel, message: bytes) -> None:
    for field in fields(message):
        match field.number:
            case 3:
                model.kind = _KINDS.get(field.integer(), f"number {field.integer()}")
            case 24:
                model.space_as_suffix = field.flag()
            case 35:
                model.byte_fallback = field.flag()
            case 40:
                model.unknown_id = field.signed()
            case 41:
                model.bos_id = field.signed()
            case 42:
                model.eos_id = field.signed()


def _normalizer(model: SentencePieceModel, message: bytes) -> None:
    for field in fields(message):
        match field.number:
            case 2:
                model.charsmap = field.data()
            case 3:
                model.dummy_prefix = field.flag()
            case 4:
                model.collapse_spaces = field.flag()
            case 5:
                model.escape_spaces = field.flag()


# ---------------------------------------------------------------- building


def build(
    model: SentencePieceModel, *, file: Path, legacy: bool = True, extra: Sequence[Added] = ()
) -> Tokenizer:
    """The tokenizer of a model. `legacy`: a space is written before every stretch between added tokens, else only
    before the text; `extra`: tokens that other files of the checkpoint add. Raises CheckpointError."""
    problem = None
    if model.kind not in ("bpe", "unigram"):
        problem = f"the model is of the kind {model.kind!r}; bpe and unigram are supported"
    elif model.space_as_suffix:
        problem = "it writes spaces behind words (treat_whitespace_as_suffix)"
    elif model.denormalizes:
        problem = "it changes text after decoding (denormalizer_spec)"
    elif not model.escape_spaces:
        problem = "it keeps spaces as they are (escape_whitespaces is off)"
    if problem is not None:
        raise CheckpointError("this SentencePiece model isn't supported", file=file, why=problem)
    return assemble(
        model.pieces,
        file=file,
        kind=model.kind,
        unknown_id=model.unknown_id,
        byte_fallback=model.byte_fallback,
        charsmap=model.charsmap,
        prefix=("always" if legacy else "first") if model.dummy_prefix else None,
        collapse=model.collapse_spaces,
        extra=extra,
    )


def assemble(
    pieces: Sequence[tuple[str, float, int]],
    *,
    file: Path,
    kind: str,
    unknown_id: int,
    byte_fallback: bool,
    charsmap: bytes = b"",
    prefix: str | None,
    collapse: bool,
    extra: Sequence[Added] = (),
    turn_tokens: frozenset[str] = TURN_TOKENS,
) -> Tokenizer:
    """A tokenizer of pieces (text, score, kind) by id. Raises CheckpointError."""
    steps = _charsmap(charsmap, file)
    table = _overridden(pieces, extra, turn_tokens)
    # A user-defined piece is looked for in the text itself, where its spaces are spaces.
    names = [text.replace(SPACE, " ") if k == USER_DEFINED else text for text, _, k in table]
    vocab = {name: i for i, name in enumerate(names)}
    if len(vocab) != len(names):
        double = next(name for i, name in enumerate(names) if vocab[name] != i)
        raise CheckpointError(f"the piece {printable(repr(double))} stands there twice", file=file)
    given = {token.id for token in extra}
    added = [
        Added(i, names[i], special=k != USER_DEFINED)
        for i, (_, _, k) in enumerate(table)
        if k in (UNKNOWN, CONTROL, USER_DEFINED) and i not in given
    ]
    added += [token._replace(text=names[token.id]) if token.id < len(names) else token for token in extra]
    vocab = with_added(vocab, added, file=file)
    if byte_fallback and not vocab.keys() >= set(BYTE_TOKENS):
        raise CheckpointError("the vocabulary falls back to bytes and lacks some", file=file)
    with library_errors(file):
        if kind == "bpe":
            unknown = names[unknown_id] if 0 <= unknown_id < len(names) else None
            tokenizer = spaced_bpe(vocab, _merges(table, file), unknown=unknown, byte_fallback=byte_fallback)
        else:
            tokenizer = _unigram(vocab, table, unknown_id, byte_fallback, file)
        spaced(
            tokenizer, normalizers_first=steps, prefix=prefix, collapse=collapse, byte_fallback=byte_fallback
        )
        if kind == "unigram":
            scores = {text: score for text, score, k in table if k == NORMAL}
            _cut_names(tokenizer, [t.text for t in added if t.special and len(t.text) > 1], scores)
        add_tokens(tokenizer, added, file=file)
    return tokenizer


def _overridden(
    pieces: Sequence[tuple[str, float, int]], extra: Sequence[Added], turn_tokens: frozenset[str]
) -> list[tuple[str, float, int]]:
    """The pieces with the names and kinds that the files beside the model give them."""
    table = [
        (text, score, CONTROL if k == USER_DEFINED and text in turn_tokens else k)
        for text, score, k in pieces
    ]
    for token in extra:
        if token.id < len(table):
            score, k = table[token.id][1:]
            kind = UNKNOWN if k == UNKNOWN else CONTROL if token.special else USER_DEFINED
            table[token.id] = (token.text, score, kind)
    return table


def _cut_names(tokenizer: Tokenizer, controls: Sequence[str], scores: dict[str, float]) -> None:
    """A unigram model finds any piece in text, those of control tokens and bytes too: it never sees their names
    whole, since they are cut where its best pieces meet."""
    from tokenizers import Regex, pre_tokenizers

    before, behind = _around(scores)
    tails: dict[str, list[str]] = {f"<{before}": [f"{behind}[0-9A-F]{{2}}>"]}
    for name in controls:
        at = _first_boundary(name, scores)
        tails.setdefault(_escaped(name[:at]), []).append(_escaped(name[at:]))
    cuts = [f"(?<={head})(?=(?:{'|'.join(rest)}))" for head, rest in tails.items()]
    steps = [] if tokenizer.pre_tokenizer is None else [tokenizer.pre_tokenizer]
    steps.append(pre_tokenizers.Split(Regex("|".join(cuts)), behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def _around(scores: dict[str, float]) -> tuple[str, str]:
    """What of a byte's name, such as <0x0A>, stands before and behind the cut: "" and 0x, 0 and x, or 0x and ""."""
    at = min(_first_boundary(BYTE_TOKENS[10], scores), 3)
    return "0x"[: at - 1], "0x"[at - 1 :]


def _first_boundary(text: str, scores: dict[str, float]) -> int:
    """Where the first of the best pieces of a text ends (Viterbi), which is inside it."""
    unknown = min(scores.values(), default=0.0) - 10
    best: list[tuple[float, int]] = [(0.0, 0)]  # the best score up to here, and where its first piece ends
    for end in range(1, len(text) + 1):
        options = [
            (best[start][0] + scores.get(text[start:end], unknown), best[start][1] or end)
            for start in range(max(0, end - 64), end)
            if text[start:end] in scores or end - start == 1
        ]
        best.append(max(options))
    first = best[-1][1]
    return first if first < len(text) else 1


def _escaped(text: str) -> str:
    return "".join(f"\\x{{{ord(char):X}}}" for char in text)


def _charsmap(charsmap: bytes, file: Path) -> list[Any]:
    if not charsmap:
        return []
    with library_errors(file, "the normalization rules can't be read"):
        try:
            return normalizers_for(charsmap)
        except CharsmapError as error:
            raise CheckpointError("the normalization rules are damaged", file=file, why=str(error)) from None


def _merges(pieces: Sequence[tuple[str, float, int]], file: Path) -> list[tuple[str, str]]:
    ranks = {text: -score for text, score, k in pieces if k in (NORMAL, UNUSED)}
    try:
        return merges_of(ranks, ranks)
    except TooMuchWork as error:
        raise CheckpointError("the vocabulary can't be converted", file=file, why=str(error)) from None


def _unigram(
    vocab: dict[str, int],
    pieces: Sequence[tuple[str, float, int]],
    unknown_id: int,
    byte_fallback: bool,
    file: Path,
) -> Tokenizer:
    size = max(vocab.values()) + 1
    if size > len(vocab) + MAX_PIECES:
        raise CheckpointError(f"a token has the id {size - 1}, among {len(vocab)} tokens", file=file)
    normal = [score for _, score, k in pieces if k == NORMAL]
    lowest = min(normal, default=0.0)
    # Only normal pieces are found in text. The library has no other place for the rest, so they get names that no
    # text has until they are added, and scores that don't count.
    scored = [(f"\ufdef{i}", lowest) for i in range(size)]
    for text, i in vocab.items():
        score = pieces[i][1] if i < len(pieces) and pieces[i][2] in (NORMAL, UNUSED) else lowest
        scored[i] = (text, score)
    if not 0 <= unknown_id < size:
        raise CheckpointError(f"the unknown token has the id {unknown_id}", file=file)
    return unigram(scored, unknown_id=unknown_id, byte_fallback=byte_fallback)
