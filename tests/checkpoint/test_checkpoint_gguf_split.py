"""Models in several GGUF files: read as the one they were, and refused by name where a part is missing or foreign."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from gguf_models import build, saved_state
from gguf_writer import GgufTensorSpec, write_gguf

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.convert import cache_key
from deploykit.checkpoint.errors import CheckpointError
from deploykit.checkpoint.gguf import read_header
from deploykit.checkpoint.gguf_split import without_rest
from deploykit.checkpoint.weights import iter_weights
from deploykit.hub.split import parts_of


def split(path: Path, sizes: tuple[int, ...], stem: str = "m") -> list[Path]:
    """The parts of a file, as ggml's own tool writes them: so many tensors each, all metadata in the first."""
    header = read_header(path)
    data = path.read_bytes()
    tensors: list[GgufTensorSpec] = [
        (t.name, t.type.name, t.shape, data[t.offset : t.offset + t.nbytes]) for t in header.tensors
    ]
    assert sum(sizes) == len(tensors)
    made = []
    for number, size in enumerate(sizes):
        mine, tensors = tensors[:size], tensors[size:]
        said = {
            "split.no": struct.pack("<IH", 2, number),
            "split.count": struct.pack("<IH", 2, len(sizes)),
            "split.tensors.count": struct.pack("<Ii", 5, len(header.tensors)),
        }
        metadata = {**(header.metadata if number == 0 else {}), **said}
        made.append(path.with_name(f"{stem}-{number + 1:05}-of-{len(sizes):05}.gguf"))
        write_gguf(made[-1], metadata, mine)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("split") / "whole.gguf"
    return path, saved_state(build("qwen3", path))


@pytest.fixture
def parts(whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> list[Path]:
    path = tmp_path / "whole.gguf"
    path.write_bytes(whole[0].read_bytes())
    count = len(read_header(path).tensors)
    made = split(path, (0, 5, count - 5))  # --no-tensor-first-split
    path.unlink()
    return made


def test_parts_are_read_as_the_file_they_were(whole, parts, tmp_path) -> None:
    facts, same = read_facts(parts[0]), read_facts(whole[0])
    assert facts.config == same.config
    assert [(t.name, t.shape, t.dtype) for t in facts.tensors] == [
        (t.name, t.shape, t.dtype) for t in same.tensors
    ]
    assert {t.file for t in facts.tensors} == {p.name for p in parts[1:]}
    read = dict(iter_weights(facts, "float32", tmp_path / "cache"))
    assert set(read) == set(whole[1])
    assert all(torch.equal(read[key], value) for key, value in whole[1].items())


def test_a_folder_of_parts_is_one_model(parts) -> None:
    assert read_facts(parts[0].parent).path == str(parts[0])


def test_the_cache_knows_parts_apart_by_all_their_bytes(parts) -> None:
    facts = read_facts(parts[0])
    before = cache_key(facts)
    data = bytearray(parts[2].read_bytes())
    data[-40] ^= 1
    parts[2].write_bytes(data)
    assert cache_key(facts) != before


def _refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as error:
        read_facts(path)
    return error.value


def test_another_part_than_the_first_says_which_is(parts) -> None:
    error = _refused(parts[1])
    assert "not the first" in error.what
    assert str(parts[0]) in str(error.fix)


def test_a_missing_part_is_named(parts) -> None:
    parts[1].unlink()
    assert parts[1].name in str(_refused(parts[0]).why)


def test_a_foreign_part_is_named(parts) -> None:
    parts[1].write_bytes(parts[2].read_bytes())
    error = _refused(parts[0])
    assert parts[1].name in str(error.where)
    assert "part 3 of 3" in str(error.why)


def test_a_part_of_another_model_is_seen_by_its_tensors(whole, parts, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "whole.gguf").write_bytes(whole[0].read_bytes())
    count = len(read_header(other / "whole.gguf").tensors)
    foreign = split(other / "whole.gguf", (0, 6, count - 6))
    parts[1].write_bytes(foreign[1].read_bytes())
    assert "tensors" in str(_refused(parts[0]).why)


def test_a_renamed_part_says_what_it_was_called(parts) -> None:
    other = parts[0].with_name("model.gguf")
    parts[0].rename(other)
    assert "00001-of-00003" in str(_refused(other).why)


def test_a_cut_part_names_itself(parts) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-64])
    assert parts[2].name in str(_refused(parts[0]).where)


def test_names() -> None:
    assert parts_of("a-00002-of-00002.gguf") == ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf")
    assert parts_of("a-00001-of-00001.gguf") == ()
    assert parts_of("a.gguf") == ()
    assert without_rest(["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"]) == [
        "a-00001-of-00002.gguf",
        "b.gguf",
    ]
