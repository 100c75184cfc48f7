"""Symbol versions that a shared library asks of others (GLIBCXX_3.4.32), and those that one offers. ELF, 64 bit."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_SECTION = struct.Struct(
    "<IIQQQQIIQQ"
)  # name, type, flags, address, offset, size, link, info, align, entry size
_NEED = struct.Struct("<HHIII")  # version, count, file, first, next
_NEED_ENTRY = struct.Struct("<IHHII")  # hash, flags, other, name, next
_OFFER = struct.Struct("<HHHHIII")  # version, flags, index, count, hash, first, next
_VERDEF, _VERNEED = 0x6FFFFFFD, 0x6FFFFFFE
_BASE = 1  # VER_FLG_BASE: the file's own name, no version
_MOST = 4096  # entries of one chain: a loop in a damaged file ends here


class ElfError(Exception):
    """The file is no ELF library that can be read."""


@dataclass(frozen=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int


def needed_versions(path: Path) -> dict[str, tuple[str, ...]]:
    """Library -> the versions asked of it: {"libstdc++.so.6": ("GLIBCXX_3.4", …)}. Raises ElfError."""
    data, sections = _read(path)
    found: dict[str, tuple[str, ...]] = {}
    for section in (s for s in sections if s.kind == _VERNEED):
        names = sections[section.link]
        at = section.offset
        for _ in range(_MOST):
            _, count, file, first, following = _unpack(_NEED, data, at)
            versions = []
            entry = at + first
            for _ in range(min(count, _MOST)):
                _, _, _, name, step = _unpack(_NEED_ENTRY, data, entry)
                versions.append(_name(data, names, name))
                entry += step
            found[_name(data, names, file)] = tuple(versions)
            if not following:
                break
            at += following
    return found


def offered_versions(path: Path) -> frozenset[str]:
    """The versions that a library defines. Raises ElfError."""
    data, sections = _read(path)
    found = set()
    for section in (s for s in sections if s.kind == _VERDEF):
        names = sections[section.link]
        at = section.offset
        for _ in range(_MOST):
            _, flags, _, count, _, first, following = _unpack(_OFFER, data, at)
            if count and not flags & _BASE:
                found.add(_name(data, names, _unpack(struct.Struct("<I"), data, at + first)[0]))
            if not following:
                break
            at += following
    return frozenset(found)


def _read(path: Path) -> tuple[memoryview, list[_Section]]:
    import mmap

    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise ElfError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if bytes(data[:4]) != b"\x7fELF":
        raise ElfError(f"{path} is no ELF file")
    if bytes(data[4:6]) != b"\x02\x01":
        raise ElfError(f"{path} is no 64-bit little-endian ELF file")
    start = _unpack(struct.Struct("<Q"), data, 0x28)[0]
    size, count = _unpack(struct.Struct("<HH"), data, 0x3A)
    if size != _SECTION.size:
        raise ElfError(f"{path} has no section table that can be read")
    sections = []
    for i in range(count):
        _, kind, _, _, offset, length, link, _, _, _ = _unpack(_SECTION, data, start + i * size)
        sections.append(_Section(kind, offset, length, link))
    if any(s.kind in (_VERDEF, _VERNEED) and s.link >= len(sections) for s in sections):
        raise ElfError(f"{path} has a damaged section table")
    return data, sections


def _unpack(form: struct.Struct, data: memoryview, at: int) -> tuple[int, ...]:
    try:
        return form.unpack_from(data, at)
    except struct.error:
        raise ElfError("the file ends too early") from None


def _name(data: memoryview, names: _Section, at: int) -> str:
    begin = names.offset + at
    text = bytes(data[begin : min(begin + 256, names.offset + names.size)])
    return text.partition(b"\0")[0].decode(errors="replace")
