"""SentencePiece's compiled normalization rules, read whole and said with the `tokenizers` library's normalizers.

A charsmap is a double-array trie (darts-clone) of byte sequences and, behind it, the texts that they turn into,
each ended by a zero byte. The longest sequence that matches at a place counts. The library has a reader for it, but
that one works by grapheme clusters and drops what follows a match within one; so the rules are taken apart here.
"""

from __future__ import annotations

import itertools
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MAX_RULES = 1_000_000
MAX_GROUPS = 64  # each is a normalizer, which reads the whole text
_MAX_KEY = 64  # bytes
_MAX_KEPT = 128
_CHUNK = 100
_BYTES = [bytes((byte,)) for byte in range(256)]
_BETWEEN = "\U0010feff"
# Where characters are that NFKC or lower case change, but for Hangul.
_CANDIDATES = tuple(
    chr(point)
    for first, end in ((0x41, 0xAC00), (0xF900, 0x10000), (0x10400, 0x10600), (0x1D400, 0x1F300))
    for point in range(first, end)
)


class CharsmapError(ValueError):
    """The charsmap is damaged."""


def read_charsmap(blob: bytes) -> dict[str, str]:
    """Every rule: text -> what it turns into. Raises CharsmapError."""
    import numpy as np

    if len(blob) < 8:
        raise CharsmapError("it is shorter than its header")
    (size,) = struct.unpack_from("<I", blob)
    if size % 4 or not 4 <= size <= len(blob) - 4:
        raise CharsmapError(f"its trie claims {size} of {len(blob) - 4} bytes")
    units = np.frombuffer(blob, dtype="<u4", count=size // 4, offset=4).astype(np.int64)
    texts = blob[4 + size :]
    rules: dict[str, str] = {}
    for key, value in _leaves(units):
        end = texts.find(b"\0", value)
        if value >= len(texts) or end < 0:
            raise CharsmapError(f"a result at byte {value} of {len(texts)}")
        try:
            rules[key.decode()] = texts[value:end].decode()
        except UnicodeDecodeError:
            raise CharsmapError("a rule that isn't UTF-8") from None
    return rules


def _leaves(units: npt.NDArray[np.int64]) -> Iterator[tuple[bytes, int]]:
    """(key, value) of every leaf. A node's children lie at its base, each xor its byte, and carry that byte."""
    import numpy as np

    bases = (np.arange(len(units)) ^ (units >> 10) << ((units & 512) >> 6)).tolist()
    has_leaf = ((units & 256) != 0).tolist()
    values = (units & 0x7FFFFFFF).tolist()
    children: dict[int, list[tuple[int, int]]] = {}
    for node in np.flatnonzero((units >> 31 == 0) & (units & 0xFF != 0)).tolist():
        byte = values[node] & 0xFF
        children.setdefault(node ^ byte, []).append((byte, node))
    steps = 0
    open_nodes = [(b"", 0)]
    while open_nodes:
        key, node = open_nodes.pop()
        steps += 1
        if len(key) > _MAX_KEY or steps > MAX_RULES:
            raise CharsmapError("its rules are longer or more than any real one's")
        base = bases[node]
        if has_leaf[node]:
            if base >= len(values):
                raise CharsmapError("its trie points outside itself")
            yield key, values[base]
        open_nodes += [(key + _BYTES[byte], child) for byte, child in children.get(base, ())]


def normalizers_for(blob: bytes) -> list[Any]:
    """Normalizers that do what the charsmap says. Raises CharsmapError where it is damaged.

    Its rules are NFKC (and lower case) and some of its own: those come first, as replacements. What is left where
    there are too many results (characters younger than the library's NFKC) is done by the library's own reader of
    charsmaps, which by then finds single characters only.
    """
    from tokenizers import Regex, normalizers

    rules = read_charsmap(blob)
    nfkc, lower = normalizers.NFKC(), normalizers.Lowercase()
    best: tuple[dict[str, list[str]], list[Any], list[str]] = (_rest(rules, []), [], [])
    for base in ([nfkc], [nfkc, lower]) if len(best[0]) > MAX_GROUPS else ():
        # What the base would change and the rules don't.
        kept = [c for c, done in _normalized(base, _CANDIDATES) if done != c and c not in rules]
        if len(kept) <= _MAX_KEPT:
            best = min(best, (_rest(rules, base), base, kept), key=lambda choice: len(choice[0]))
    groups, base, kept = best
    first = groups
    if len(groups) > MAX_GROUPS:
        first = {value: keys for value, keys in groups.items() if value in ("", " ")}
    keys = {key for group in first.values() for key in group}
    if any(key in value for value in first for key in keys):
        first = {}
    steps: list[Any] = [normalizers.Replace(Regex(_alternatives(k)), v) for v, k in sorted(first.items())]
    # The far end of the private use area stands for what is kept meanwhile.
    hidden = [(char, chr(0x10FE00 + i)) for i, char in enumerate(kept)]
    steps += [normalizers.Replace(char, mark) for char, mark in hidden]
    if base:
        steps += [
            normalizers.Replace(Regex(_apart(rules)), _BETWEEN),
            *base,
            normalizers.Replace(_BETWEEN, ""),
        ]
    steps += [normalizers.Replace(mark, char) for char, mark in hidden]
    if len(first) < len(groups):
        steps.append(normalizers.Precompiled(blob))
    return steps


def _apart(rules: dict[str, str]) -> str:
    """Where two marks meet that stand side by side in no rule.

    NFKC puts marks into an order of its own and joins one with a letter across others; the rules do neither.
    """
    joined: dict[str, set[str]] = {}
    for key in rules:
        for first, second in itertools.pairwise(key):
            if unicodedata.category(second)[0] == "M" and unicodedata.category(first)[0] == "M":
                joined.setdefault(first, set()).add(second)
    pairs = "|".join(
        f"(?<={_escaped(first)})[{''.join(_ranges(sorted(map(ord, seconds))))}]"
        for first, seconds in sorted(joined.items())
    )
    return r"(?<=\p{M})(?=\p{M})" + (f"(?!{pairs})" if pairs else "")


def _rest(rules: dict[str, str], base: list[Any]) -> dict[str, list[str]]:
    """What the rules do beyond `base`: result -> texts."""
    groups: dict[str, list[str]] = {}
    for key, done in _normalized(base, list(rules)):
        if done != rules[key]:
            groups.setdefault(rules[key], []).append(key)
    return groups


def _normalized(steps: list[Any], texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each text with what the normalizers make of it."""
    from tokenizers import normalizers

    normalizer = normalizers.Sequence(steps)
    lines = [text for text in texts if "\n" not in text]
    for start in range(0, len(lines), _CHUNK):
        chunk = lines[start : start + _CHUNK]
        yield from zip(chunk, normalizer.normalize_str("\n".join(chunk)).split("\n"), strict=True)
    for text in texts:
        if "\n" in text:
            yield text, normalizer.normalize_str(text)


def _alternatives(keys: list[str]) -> str:
    """An expression for any of the keys, the longest first."""
    single = sorted(ord(k) for k in keys if len(k) == 1)
    longer = sorted((k for k in keys if len(k) > 1), key=len, reverse=True)
    parts = ["".join(_escaped(c) for c in k) for k in longer]
    if single:
        parts.append("[" + "".join(_ranges(single)) + "]")
    return "|".join(parts)


def _ranges(points: list[int]) -> list[str]:
    ranges: list[list[int]] = []
    for point in points:
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return [_escaped(chr(a)) + (f"-{_escaped(chr(b))}" if b > a else "") for a, b in ranges]


def _escaped(char: str) -> str:
    return f"\\x{{{ord(char):X}}}"
