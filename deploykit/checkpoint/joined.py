"""Hugging Face's tensors out of a file's: one of one, but one of gate and up where their columns alternate in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from deploykit.checkpoint.facts import TensorInfo
from deploykit.checkpoint.gguf_families import ALTERNATE, ALTERNATE_TRANSPOSED

_GATE, _UP, _BOTH = "gate_proj", "up_proj", "gate_up_proj"


class Whole(NamedTuple):
    name: str
    shape: tuple[int, ...]
    parts: tuple[
        TensorInfo, ...
    ]  # where there are two, its columns are theirs in turn, beginning with the first

    @property
    def num_elements(self) -> int:
        return sum(part.num_elements for part in self.parts)


def wholes(tensors: Iterable[TensorInfo]) -> tuple[Whole, ...]:
    """The tensors of the model, in the order of the file."""
    tensors = tuple(tensors)
    by_name = {t.name: t for t in tensors}
    found: dict[str, Whole] = {}
    for t in tensors:
        if t.layout not in (ALTERNATE, ALTERNATE_TRANSPOSED):
            found[t.name] = Whole(t.name, t.shape, (t,))
            continue
        stem, _, end = t.name.replace(_GATE, _UP).rpartition(_UP)
        name = f"{stem}{_BOTH}{end}"
        parts = (by_name[f"{stem}{_GATE}{end}"], by_name[f"{stem}{_UP}{end}"])
        found[name] = Whole(name, (*t.shape[:-1], 2 * t.shape[-1]), parts)
    return tuple(found.values())
