"""Models in several GGUF files, `NAME-00001-of-00003.gguf` and on: the first has the metadata, each its own tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from deploykit.checkpoint import gguf
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.files import exists, member
from deploykit.checkpoint.gguf import GgufHeader
from deploykit.hub.split import parts_of

_AGAIN = "fetch all parts again, from one place"


def without_rest(names: Sequence[str]) -> list[str]:
    """The names, but for the second part and on of models whose first part is there too: one name for each model."""
    present = set(names)
    return [n for n in names if not (parts := parts_of(n)) or n == parts[0] or parts[0] not in present]


def read_whole(path: Path) -> GgufHeader:
    """The proven header of a model: of its file, or of its first part with the tensors of all parts.

    Raises CheckpointError that names the part which is missing, or doesn't belong to the others.
    """
    header = gguf.read_header(path)
    count = _number(header, path, "split.count", 1)
    if count in (0, 1):
        return header
    names = parts_of(path.name)
    if len(names) != count:
        why = f"it says that it is one of {count} parts, which are called NAME-00001-of-{count:05}.gguf and so on"
        raise CheckpointError(
            "a part of a GGUF file has another name", file=path, why=why, fix="give it its name back"
        )
    number = _number(header, path, "split.no", 0)
    if number != 0 or path.name != names[0]:
        fix = f"name the first part: {path.with_name(names[0])}"
        raise CheckpointError("this is one part of a model, and not the first", file=path, fix=fix)
    missing = [name for name in names if not exists(path.parent, name)]
    if missing:
        why = f"{len(missing)} of {count}: {', '.join(missing[:3])}"
        raise CheckpointError("parts of the model are missing", file=path, why=why, fix=_AGAIN)
    others = [(name, gguf.read_header(member(path.parent, name))) for name in names[1:]]
    return join(path, header, others)


def join(path: Path, first: GgufHeader, others: Iterable[tuple[str, GgufHeader]]) -> GgufHeader:
    """One header of the first part's, at `path`, and (name, header) of the others in their order."""
    count = _number(first, path, "split.count", 1)
    tensors = [msgspec.structs.replace(t, file=path.name) for t in first.tensors]
    digests = [first.digest]
    size = first.file_size
    for number, (name, header) in enumerate(others, 1):
        part = path.with_name(name)
        said = (_number(header, part, "split.no", -1), _number(header, part, "split.count", -1))
        if said != (number, count):
            why = f"it says that it is part {said[0] + 1} of {said[1]}"
            raise CheckpointError("a part doesn't belong to the model", file=part, why=why, fix=_AGAIN)
        tensors += [msgspec.structs.replace(t, file=name) for t in header.tensors]
        digests.append(header.digest)
        size += header.file_size
    total = _number(first, path, "split.tensors.count", len(tensors))
    if total != len(tensors):
        why = f"the parts hold {len(tensors)} tensors, and the first says {total}"
        raise CheckpointError("the parts don't make one model", file=path, why=why, fix=_AGAIN)
    if len({t.name for t in tensors}) != len(tensors):
        raise CheckpointError("a tensor stands in two parts of the model", file=path, fix=_AGAIN)
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return msgspec.structs.replace(first, tensors=tuple(tensors), digest=digest, file_size=size)


def _number(header: GgufHeader, path: Path, key: str, default: int) -> int:
    value = header.metadata.get(key, default)
    if type(value) is not int or not -1 <= value <= 1 << 20:
        raise CheckpointError(
            "the GGUF header is wrong", file=path, why=f"metadata {key} is no count", fix=_AGAIN
        )
    return value
