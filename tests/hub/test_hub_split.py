"""Models in several GGUF files, cut by ggml's own writer: fetched, looked into and checked as one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_models
from hub_fakes import FakeHub

from deploykit.checkpoint import heads, read_facts
from deploykit.checkpoint.facts import Facts
from deploykit.errors import DeploykitError
from deploykit.hub import cache as models
from deploykit.hub import fetch, locate
from deploykit.hub.heads import view
from deploykit.hub.look import look
from deploykit.hub.verify import verify


@pytest.fixture
def parts(hub: FakeHub, tmp_path: Path) -> list[str]:
    files = small_models.gguf_files(tmp_path, tensors=8)
    hub.files = {"other.gguf": b"x", **{f"Q8/{name}": data for name, data in files.items()}}
    names = [f"Q8/{name}" for name in files]
    assert len(names) == 3
    return names


def weights(facts: Facts) -> list[tuple[str, int, str, int]]:
    return [(t.name, t.nbytes, t.file, t.offset) for t in facts.tensors]


def test_the_first_part_brings_the_others(
    hub: FakeHub, ref, cache: Path, tmp_path: Path, parts: list[str]
) -> None:
    got = fetch([ref(file=parts[0])], cache=cache)
    assert got.path.name == Path(parts[0]).name
    for name in parts:
        assert (got.path.parent / Path(name).name).read_bytes() == hub.files[name]
    assert hub.asked_for("other.gguf") == []
    whole = tmp_path / "whole"
    whole.mkdir()
    small_models.gguf_files(whole)
    facts, same = read_facts(got.path), read_facts(whole / "made.gguf")
    assert facts.config == same.config
    assert [(t.name, t.shape) for t in facts.tensors] == [(t.name, t.shape) for t in same.tensors]
    located = locate([ref(file=parts[0])], cache=cache)
    assert located is not None
    assert located.path == got.path


def test_headers_are_read_of_all_parts(hub: FakeHub, ref, cache: Path, parts: list[str]) -> None:
    found, _ = look([ref(file=parts[0])], cache=cache, reader=heads)
    with view(found, cache) as path:
        looked = read_facts(path)
    facts = read_facts(fetch([ref(file=parts[0])], cache=cache).path)
    assert weights(looked) == weights(facts)


def test_a_part_that_went_is_fetched_again(hub: FakeHub, ref, cache: Path, parts: list[str]) -> None:
    got = fetch([ref(file=parts[0])], cache=cache)
    (got.path.parent / Path(parts[1]).name).unlink()
    assert locate([ref(file=parts[0])], cache=cache) is None
    fetch([ref(file=parts[0])], cache=cache)
    read_facts(got.path)


def test_each_part_is_listed_and_verified(hub: FakeHub, ref, cache: Path, parts: list[str]) -> None:
    got = fetch([ref(file=parts[0])], cache=cache)
    found = [entry for entry in models.entries(cache) if entry.file is not None]
    assert sorted(entry.file for entry in found) == parts
    assert all(verify(entry, cache, lambda progress: None).ok for entry in found)
    third = got.path.parent / Path(parts[2]).name
    third.write_bytes(third.read_bytes()[:-1] + b"!")
    wrong = [entry.file for entry in found if not verify(entry, cache, lambda progress: None).ok]
    assert wrong == [parts[2]]


def test_another_part_than_the_first_is_refused(hub: FakeHub, ref, cache: Path, parts: list[str]) -> None:
    with pytest.raises(DeploykitError, match="not the first") as error:
        fetch([ref(file=parts[1])], cache=cache)
    assert parts[0] in str(error.value.fix)


def test_a_part_that_the_hub_lacks_is_named(hub: FakeHub, ref, cache: Path, parts: list[str]) -> None:
    del hub.files[parts[2]]
    with pytest.raises(DeploykitError) as error:
        fetch([ref(file=parts[0])], cache=cache)
    assert parts[2] in error.value.what
