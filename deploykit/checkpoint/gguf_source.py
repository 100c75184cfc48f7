"""A GGUF file's metadata and tensors, read for the architecture that it says it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.gguf import GgufHeader, GgufTensor
from deploykit.checkpoint.gguf_families import FAMILIES, REFUSED, Family
from deploykit.checkpoint.gguf_metadata import Metadata


class Source:
    """A file's metadata and tensor names, read for one architecture."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self.path = path
        self.meta = Metadata(path, header.metadata)
        self.tensors: Mapping[str, GgufTensor] = {t.name: t for t in header.tensors}
        found = self.meta.text("general.architecture")
        self.arch = name = found or ""
        if name == "llama" and self.has("expert_count") and self.integer("expert_count", low=0):
            name = "llama+experts"
        if name in REFUSED:
            raise CheckpointError(
                f"GGUF files of the architecture {name!r} aren't supported",
                file=path,
                why=REFUSED[name],
                fix="use another model: docs/checkpoints.md lists the architectures",
            )
        if name not in FAMILIES:
            known = ", ".join(n for n in FAMILIES if "+" not in n)
            raise CheckpointError(
                f"GGUF files of the architecture {printable(repr(found))} aren't supported",
                file=path,
                why=f"supported: {known}",
                fix="use the model's checkpoint in safetensors",
            )
        self.family: Family = FAMILIES[name]

    def key(self, name: str) -> str:
        return f"{self.arch}.{name}"

    def has(self, name: str) -> bool:
        return self.key(name) in self.meta

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = 2**31 - 1) -> int:
        return self.meta.integer(self.key(name), default, low=low, high=high)

    def number(self, name: str, default: float | None = None) -> float:
        return self.meta.number(self.key(name), default)

    def stored(self, part: str, leaf: str = "weight") -> bool:
        return f"blk.0.{part}.{leaf}" in self.tensors
