"""Safetensors headers: what is true is read, and no lie gets through."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import pack, safetensors_bytes
from mutations import mutate

from deploykit.checkpoint import CheckpointError
from deploykit.checkpoint.safetensors import read_folder, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = bytes(8)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_sound_file(tmp_path: Path) -> None:
    data = pack(
        {"a": ("F32", [2, 3], bytes(24)), "b": ("BF16", [5], bytes(10)), "empty": ("I8", [0, 4], b"")}
    )
    header = read_header(write(tmp_path / "m.safetensors", data))
    assert [(t.name, t.shape, t.dtype, t.nbytes) for t in header.tensors] == [
        ("a", (2, 3), "float32", 24),
        ("empty", (0, 4), "int8", 0),
        ("b", (5,), "bfloat16", 10),
    ] or [t.name for t in header.tensors] == ["a", "b", "empty"]
    by_name = {t.name: t for t in header.tensors}
    assert by_name["b"].offset == header.data_start + 24
    assert header.metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        ({"a": F32}, bytes(7), "cut short"),
        ({"a": F32}, bytes(9), "belong to no tensor"),
        ({"a": F32, "b": F32}, DATA, "overlap"),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, bytes(20), "gap"),
        ({"a": {**F32, "dtype": "F99"}}, DATA, "unknown dtype"),
        ({"a": {**F32, "dtype": ["F32"]}}, DATA, "unknown dtype"),
        ({"a": {**F32, "shape": [3]}}, DATA, "takes 12 bytes"),
        ({"a": {**F32, "shape": [2**62, 2**62]}}, DATA, "data_offsets give 8"),
        ({"a": {**F32, "shape": [-2]}}, DATA, "shape"),
        ({"a": {**F32, "shape": [2.0]}}, DATA, "shape"),
        ({"a": {**F32, "shape": [True]}}, DATA, "shape"),
        ({"a": {**F32, "shape": [1] * 99}}, DATA, "shape"),
        ({"a": {**F32, "shape": 2}}, DATA, "shape"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, DATA, "give -8"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, DATA, "data_offsets"),
        ({"a": {**F32, "data_offsets": [0, 2**70]}}, DATA, "data_offsets"),
        ({"a": {**F32, "data_offsets": [0]}}, DATA, "data_offsets"),
        ({"a": {"dtype": "F32", "shape": [2]}}, DATA, "exactly"),
        ({"a": {**F32, "extra": 1}}, DATA, "exactly"),
        ({"a": 5}, DATA, "exactly"),
        ({"__metadata__": {"a": 1}, "a": F32}, DATA, "__metadata__"),
        ({"__metadata__": [], "a": F32}, DATA, "__metadata__"),
        ([1], b"", "start with {"),
        (b'{"a": NaN}', b"", "NaN"),
        (b'{"a": {"dtype": "F32"', b"", "valid JSON"),
        (b"{}  \xff", b"", "valid JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"", "nested"),
        (b'{"\\ud800": ' + json.dumps(F32).encode() + b"}", DATA, "valid text"),
        (b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}", DATA, "twice"),
        (b'{"a": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}', DATA, "valid JSON"),
    ],
)
def test_a_lie_is_named(tmp_path: Path, header: Any, data: bytes, reason: str) -> None:
    path = write(tmp_path / "m.safetensors", safetensors_bytes(header, data))
    with pytest.raises(CheckpointError) as e:
        read_header(path)
    assert reason in str(e.value)
    assert "m.safetensors" in str(e.value)
    assert e.value.exit_code == 2


@pytest.mark.parametrize("data", [b"", b"\0" * 7, struct.pack("<Q", 100), struct.pack("<Q", 2**63) + b"{}"])
def test_no_header_at_all(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_header(write(tmp_path / "m.safetensors", data))


def test_a_truncated_file_names_tensor_and_fix(tmp_path: Path) -> None:
    data = pack({"first": ("F32", [2], DATA), "second": ("F32", [2], DATA)})
    with pytest.raises(CheckpointError) as e:
        read_header(write(tmp_path / "m.safetensors", data[:-3]))
    assert e.value.tensor == "second"
    assert "fetch it again" in str(e.value)


@pytest.mark.parametrize("start", range(0, 400, 100))
def test_mutated_headers_never_escape(tmp_path: Path, start: int) -> None:
    tensors = {f"model.layers.{i}.w": ("F32", [2, 4], bytes(32)) for i in range(6)}
    sound = pack(tensors)
    path = tmp_path / "m.safetensors"
    refused = 0
    for seed in range(start, start + 100):
        path.write_bytes(mutate(sound, seed, len(sound) - 192))
        try:
            header = read_header(path)
        except CheckpointError:
            refused += 1
        else:  # the damage left another sound file: then every tensor is inside it
            assert all(t.offset + t.nbytes <= header.file_size for t in header.tensors)
    assert refused > 60


# ---------------------------------------------------------------- folders


def test_shards_follow_the_index(folder: Path) -> None:
    found = {t.name: t.file for t in read_folder(folder)}
    assert found == {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors",
    }


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"model.norm.weight": "../secret.safetensors"}, "plain name"),
        ({"model.norm.weight": "/etc/passwd.safetensors"}, "plain name"),
        ({"model.norm.weight": "weights.bin"}, ".safetensors"),
        ({"model.norm.weight": 3}, ".safetensors"),
        ({"model.norm.weight": "model-00003-of-00003.safetensors"}, "missing"),
        ({"model.norm.weight": "model-00001-of-00002.safetensors"}, "disagree"),
        ({"nowhere": "model-00001-of-00002.safetensors"}, "disagree"),
        ({}, "weight_map"),
        ([], "weight_map"),
    ],
)
def test_a_lying_index(folder: Path, weight_map: Any, reason: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError) as e:
        read_folder(folder)
    assert reason in str(e.value)


def test_a_tensor_in_two_shards(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(
        (folder / "model-00001-of-00002.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match="disagree"):
        read_folder(folder)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(CheckpointError, match="symbolic link"):
        read_folder(folder)


def test_the_layout_of_hugging_faces_cache_is_read(folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    assert len(read_folder(snapshot)) == 2


def test_pipes_and_devices_are_refused_without_waiting(folder: Path) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(CheckpointError, match="regular file"):
        read_folder(folder)
    with pytest.raises(CheckpointError, match="regular file"):
        read_header(Path("/dev/zero"))
