"""GGUF headers: what is true is read, and no lie gets through."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import llama_tensors, metadata
from gguf_writer import TYPE_IDS, gguf_bytes, text, write_gguf
from mutations import mutate

from deploykit.checkpoint import CheckpointError, read_facts
from deploykit.checkpoint.gguf import read_header
from deploykit.checkpoint.tokenizer import ensure_tokenizer


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def head(tensors: int, values: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


def tensor_entry(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    out = text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
    return out + struct.pack("<IQ", kind, offset)


def one_tensor(
    dims: list[int], kind: str | int = "F32", offset: int = 0, data: int = 64, times: int = 1
) -> bytes:
    number = TYPE_IDS[kind] if isinstance(kind, str) else kind
    out = head(times, 0) + tensor_entry("t", dims, number, offset) * times
    return out + bytes(-len(out) % 32) + bytes(data)


@pytest.mark.parametrize("version", [2, 3])
def test_a_sound_file(tmp_path: Path, version: int) -> None:
    values: dict[str, Any] = {
        "a.bool": True,
        "a.int": 7,
        "a.negative": -7,
        "a.float": 0.5,
        "a.text": "ü",
        "a.list": [1, 2, 3],
        "a.texts": ["x", ""],
        "a.bools": [True, False],
        "a.nested": [[1, 2], [3]],
        "a.empty": [],
    }
    path = write_gguf(tmp_path / "m.gguf", values, [("t", "Q8_0", (3, 64), bytes(204))], version=version)
    header = read_header(path)
    assert header.metadata == values
    (tensor,) = header.tensors
    assert (tensor.shape, tensor.type.name, tensor.nbytes) == ((3, 64), "Q8_0", 204)
    assert tensor.offset == header.data_start


def test_alignment_is_followed(tmp_path: Path) -> None:
    tensors = [("a", "F32", (3,), bytes(12)), ("b", "F32", (1,), bytes(4))]
    path = write_gguf(tmp_path / "m.gguf", {"general.alignment": 64}, tensors, alignment=64)
    header = read_header(path)
    assert [t.offset - header.data_start for t in header.tensors] == [0, 64]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a GGUF"),
        (b"GGUF", "not a GGUF"),
        (b"GGML" + bytes(60), "not a GGUF"),
        (head(0, 0, version=1) + bytes(8), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (head(2**63, 0) + bytes(64), "don't fit"),
        (head(0, 2**63) + bytes(64), "don't fit"),
        (head(0, 1) + struct.pack("<Q", 2**64 - 1) + bytes(64), "don't fit"),
        (head(0, 1) + struct.pack("<Q", 70000) + bytes(80000), "limit"),
        (head(0, 1) + text("k") + struct.pack("<I", 99) + bytes(16), "unknown value type 99"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 99, 1) + bytes(16), "unknown array type 99"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**62) + bytes(16), "don't fit"),
        (head(0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**61) + bytes(16), "don't fit"),
        (head(0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9 + bytes(16), "nested"),
        (head(0, 1) + text("k") + struct.pack("<IB", 7, 2) + bytes(16), "truth value"),
        (head(0, 1) + text("k") + struct.pack("<IQ", 8, 2) + b"\xff\xff" + bytes(16), "UTF-8"),
        (head(0, 1) + text("") + struct.pack("<IB", 7, 1) + bytes(16), "empty key"),
        (head(0, 2) + (text("k") + struct.pack("<IB", 7, 1)) * 2 + bytes(16), "twice"),
        (one_tensor([16], times=2), "twice"),
        (one_tensor([]), "0 dimensions"),
        (one_tensor([1, 1, 1, 1, 1]), "5 dimensions"),
        (head(1, 0) + text("t") + struct.pack("<I", 2**32 - 1) + bytes(64), "dimensions"),
        (one_tensor([0]), "row of 0"),
        (one_tensor([33], "Q8_0"), "blocks of 32"),
        (one_tensor([16], 4), "unknown tensor type 4"),
        (one_tensor([16], 2**31), "unknown tensor type"),
        (one_tensor([17]), "cut short"),
        (one_tensor([2**32, 2**32]), "cut short"),
        (one_tensor([2**63, 2**63, 2**63, 2**63]), "cut short"),
        (one_tensor([8], offset=2**64 - 32), "cut short"),
        (one_tensor([8], offset=16), "multiple of 32"),
        (gguf_bytes({}, [("t", "F32", (8,), bytes(32))])[:-40], "cut short"),
    ],
)
def test_a_lie_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    path = write(tmp_path / "m.gguf", data)
    with pytest.raises(CheckpointError) as e:
        read_header(path)
    assert reason in str(e.value)
    assert "m.gguf" in str(e.value)


@pytest.mark.parametrize("alignment", [0, 1, 4, 12, 8192, 2**31, -8, "32", True, 32.0])
def test_alignment_is_bounded(tmp_path: Path, alignment: Any) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"general.alignment": alignment}, [("t", "F32", (8,), bytes(32))])
    with pytest.raises(CheckpointError, match="wrong"):
        read_header(path)


def test_overlapping_tensors(tmp_path: Path) -> None:
    out = head(2, 0) + tensor_entry("a", [16], 0, 0) + tensor_entry("b", [16], 0, 32)
    path = write(tmp_path / "m.gguf", out + bytes(-len(out) % 32) + bytes(128))
    with pytest.raises(CheckpointError, match="wrong") as e:
        read_header(path)
    assert "overlaps" in str(e.value)


def test_many_empty_items_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.checkpoint.gguf.MAX_ARRAY_ITEMS", 10)
    path = write_gguf(tmp_path / "m.gguf", {"a": [""] * 6, "b": [""] * 6})
    with pytest.raises(CheckpointError) as e:
        read_header(path)
    assert "array items" in str(e.value)


def test_a_truncated_model_says_fetch_again(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    for size in (10, 100, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        tiny_gguf.write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as e:
            read_facts(tiny_gguf)
        if size > 24:
            assert "fetch it again" in str(e.value)


@pytest.mark.parametrize("start", range(0, 500, 100))
def test_mutated_files_never_escape(tmp_path: Path, start: int) -> None:
    """Nothing but CheckpointError, from the header to the tokenizer."""
    sound = gguf_bytes(metadata(), llama_tensors())
    header_bytes = read_header(write(tmp_path / "sound.gguf", sound)).data_start
    path = tmp_path / "m.gguf"
    refused = 0
    for seed in range(start, start + 100):
        path.write_bytes(mutate(sound, seed, header_bytes))
        try:
            facts = read_facts(path)
            assert all(t.offset + t.nbytes <= path.stat().st_size for t in facts.tensors)
            ensure_tokenizer(facts, tmp_path / "cache")
        except CheckpointError:
            refused += 1
    assert refused > 60
