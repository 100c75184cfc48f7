"""Folders whose weights are pickles (`.bin`, `.pth`): recognised by their names, never opened here."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Literal

import msgspec

from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import exists, member, read_json

BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_META = re.compile(r"consolidated\.(\d\d)\.pth")
_SHARD = re.compile(r"[\w.-]+\.bin", re.ASCII)
_OTHERS = (
    "training_args",
    "optimizer",
    "scheduler",
    "scaler",
    "rng_state",
)  # what a trainer leaves beside a model
MAX_INDEX_BYTES = 100_000_000


class Pickled(msgspec.Struct, frozen=True):
    """`layout`: Hugging Face's (pytorch_model*.bin) or Meta's (consolidated.NN.pth and params.json)."""

    folder: Path
    layout: Literal["huggingface", "meta"]
    files: tuple[Path, ...]
    nbytes: int
    weight_map: dict[str, str] | None = None  # of the index: tensor -> file


def pickled_weights(names: list[str]) -> list[str]:
    """Those of a folder's names that look like weights in pickles."""
    return [n for n in names if n.endswith(SUFFIXES) and not n.startswith(_OTHERS)]


def recognise(folder: Path) -> Pickled:
    """The layout and its files, all of them there. Raises CheckpointError that says what is missing."""
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as e:
        raise CheckpointError("the folder can't be read", file=folder, why=str(e)) from None
    if BIN_INDEX in names:
        weight_map = _weight_map(folder)
        return _found(folder, "huggingface", sorted(set(weight_map.values())), weight_map)
    if BIN in names:
        return _found(folder, "huggingface", [BIN])
    ranks = [n for n in names if _META.fullmatch(n)]
    if ranks:
        if "params.json" not in names:
            why = f"{ranks[0]} is of Meta's layout, which has its sizes in params.json"
            raise CheckpointError("params.json is missing", file=folder, why=why)
        if ranks != [f"consolidated.{i:02d}.pth" for i in range(len(ranks))]:
            raise CheckpointError(
                "a part of the weights is missing", file=folder, why=f"there is {', '.join(ranks)}"
            )
        return _found(folder, "meta", ranks)
    seen = pickled_weights(names)
    why = (
        f"there is {', '.join(map(printable, seen[:4]))}"
        if seen
        else "there is no .bin and no .pth file in it"
    )
    known = f"{BIN}, {BIN_INDEX} with its shards, or consolidated.NN.pth with params.json"
    raise CheckpointError(
        "the folder holds no weights that can be converted", file=folder, why=f"{why}; known: {known}"
    )


def _weight_map(folder: Path) -> dict[str, str]:
    index = member(folder, BIN_INDEX)
    found = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError("the index has no weight_map", file=index)
    for name, shard in found.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            why = f"it is mapped to {printable(str(shard))!r}, which isn't the name of a .bin file"
            raise CheckpointError("the index is wrong", file=index, tensor=name, why=why)
    return found


def _found(
    folder: Path,
    layout: Literal["huggingface", "meta"],
    names: list[str],
    weight_map: dict[str, str] | None = None,
) -> Pickled:
    files, total = [], 0
    for name in names:
        path = member(folder, name)
        if not exists(folder, name) or not path.exists():
            fix = "fetch the model again, whole"
            raise CheckpointError("a shard of the model is missing", file=path, fix=fix)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("not a regular file", file=path, why="it is a folder, a pipe or a device")
        files.append(path)
        total += status.st_size
    return Pickled(folder, layout, tuple(files), total, weight_map)
