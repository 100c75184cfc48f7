"""The cache's own book: what is there, what is damaged, what is left over, and what removing leaves."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from hub_fakes import COMMIT, FILES, FakeHub, MakeRef, names

from deploykit.hub import HfRef, ModelScopeRef, fetch, locate
from deploykit.hub.cache import derived, entries, leftovers, prune_records, remove
from deploykit.hub.types import FetchProgress
from deploykit.hub.verify import verify

DAY = 86400.0


def ignore(progress: FetchProgress) -> None:
    pass


def converted(cache: Path, name: str, *, idle: float = 0.0, file: str = "model.safetensors") -> Path:
    folder = cache / "converted" / name
    folder.mkdir(parents=True)
    (folder / file).write_bytes(b"x" * 10)
    for path in (folder / file, folder):
        os.utime(path, (time.time() - idle, time.time() - idle))
    return folder


def test_everything_is_listed_by_its_own_name(hub: FakeHub, cache: Path) -> None:
    hub.files["m.gguf"] = b"GGUF" * 100
    fetch([HfRef("owner/name")], cache=cache)
    fetch([ModelScopeRef("owner/name", allow_bin=True)], cache=cache)
    fetch([HfRef("owner/name", file="m.gguf")], cache=cache)
    found = {e.id: e for e in entries(cache)}
    short = COMMIT[:12]
    assert set(found) == {
        f"owner/name@{short}",
        f"owner/name@{short}:m.gguf",
        f"owner/name@{short} (with .bin)",
    }
    model = found[f"owner/name@{short}"]
    assert (model.kind, model.branches, model.source) == ("hf", ("main",), "hf owner/name@main")
    assert model.bytes == sum(p.stat().st_size for p in Path(model.path).iterdir())
    assert found[f"owner/name@{short}:m.gguf"].bytes == 400
    assert all(e.matches("owner/name") and e.matches(f"owner/name@{COMMIT[:6]}") for e in found.values())
    assert model.matches("owner/name@main")
    assert model.matches(model.path)
    assert not any(
        e.matches(text) for e in found.values() for text in ("owner/nam", "owner/name@ff", "", "@")
    )


def test_an_empty_cache_is_empty(cache: Path) -> None:
    assert entries(cache) == []
    assert leftovers(cache, older_than=0) == []
    assert not cache.exists()


def test_removing_leaves_nothing_of_it(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.files["m.gguf"] = b"GGUF"
    fetch([ref()], cache=cache)
    fetch([ref(file="m.gguf")], cache=cache)
    whole, file = sorted(entries(cache), key=lambda e: e.file or "")
    remove(whole, cache)
    assert locate([ref()], cache=cache) is None
    assert locate([ref(file="m.gguf")], cache=cache) is not None  # the branch still points to its commit
    remove(file, cache)
    assert [n for n in names(cache) if not n.startswith("locks")] == []
    assert [p.name for p in cache.iterdir()] != []
    assert entries(cache) == []


def test_a_model_is_verified_by_the_sums_of_its_arrival(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    path = fetch([ref()], cache=cache).path
    (entry,) = entries(cache)
    seen: list[FetchProgress] = []
    verdict = verify(entry, cache, seen.append)
    assert (verdict.ok, verdict.files, verdict.problems) == (True, 4, ())
    assert seen[-1].done == seen[-1].total == entry.bytes
    weights = path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[1234] ^= 1
    weights.write_bytes(data)
    (path / "config.json").unlink()
    (path / "tokenizer.json").write_bytes(b"{} ")
    (path / "extra.json").write_bytes(b"{}")
    verdict = verify(entry, cache, ignore)
    assert verdict.ok is False
    text = "\n".join(verdict.problems)
    assert "config.json: is missing" in text
    assert "tokenizer.json: has 3 bytes instead of 2" in text
    assert hashlib.sha256(FILES["model.safetensors"]).hexdigest() in text
    assert "extra.json: wasn't fetched with the others" in text
    for record in (cache / "records").iterdir():
        record.write_bytes(b"{")
    assert verify(entries(cache)[0], cache, ignore).ok is None


def test_a_single_file_is_verified_too(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.files["a/m.gguf"] = b"GGUF"
    path = fetch([ref(file="a/m.gguf")], cache=cache).path
    (entry,) = entries(cache)
    assert entry.file == "a/m.gguf"
    assert verify(entry, cache, ignore).ok is True
    path.write_bytes(b"GGUX")
    assert verify(entry, cache, ignore).ok is False


def test_leftovers_are_what_nobody_comes_back_to(hub: FakeHub, cache: Path) -> None:
    hub.files["m.gguf"] = b"GGUF"
    fetch([HfRef("owner/name", file="m.gguf")], cache=cache)
    known = hashlib.sha256(b"GGUF").hexdigest()[:32]
    other = "e" * 32
    needed = converted(cache, f"{known}-2-bfloat16", idle=9 * DAY)
    older = converted(cache, f"{known}-1-bfloat16")
    unknown = converted(cache, f"{other}-2-float32", idle=9 * DAY)
    fresh = converted(cache, f"{'d' * 32}-2-float32")
    broken = converted(cache, f"{known}-2-float16", idle=9 * DAY, file="model.safetensors.partial")
    running = converted(cache, f"{known}-3-float32", file="model.safetensors.partial")
    ancient = converted(cache, "cd2d87a25589b59f22268885-5dce440-1821db0944f7c800-1-float32")
    foreign = converted(cache, "somebody-elses-folder", idle=9 * DAY)
    stale = cache / "staging" / "hf-owner--old-0"
    recent = cache / "staging" / "hf-owner--new-0"
    for folder in (stale, recent):
        folder.mkdir(parents=True)
        (folder / "model.safetensors.partial").write_bytes(b"xx")
    for path in (stale / "model.safetensors.partial", stale):
        os.utime(path, (1, 1))
    (cache / "staging" / "trash-1-0").mkdir()
    gone = {Path(e.path): why for e, why in leftovers(cache, older_than=DAY)}
    trash = cache / "staging" / "trash-1-0"
    assert set(gone) == {older, unknown, broken, ancient, stale, trash}
    assert {needed, fresh, running, foreign, recent}.isdisjoint(gone)
    everything = {Path(e.path) for e, _ in leftovers(cache, older_than=0)}
    assert everything == {older, unknown, broken, ancient, stale, trash, fresh, running, recent}
    for entry, _ in leftovers(cache, older_than=DAY):
        remove(entry, cache)
    assert leftovers(cache, older_than=DAY) == []
    assert needed.exists()


def test_what_was_made_of_a_file_is_known(hub: FakeHub, cache: Path) -> None:
    hub.files["m.gguf"] = b"GGUF"
    fetch([HfRef("owner/name", file="m.gguf")], cache=cache)
    folder = converted(cache, f"{hashlib.sha256(b'GGUF').hexdigest()[:32]}-2-bfloat16")
    converted(cache, f"{'e' * 32}-2-bfloat16")
    found = entries(cache)
    source = next(e for e in found if e.kind == "hf")
    assert [e.path for e in derived(source, found, cache)] == [str(folder)]


def test_records_of_what_is_gone_are_forgotten(hub: FakeHub, cache: Path) -> None:
    path = fetch([HfRef("owner/name")], cache=cache).path
    stray = cache / "records" / "hf--a--b--model--0.json"
    stray.write_bytes(b"{}")
    prune_records(cache)
    assert not stray.exists()
    assert len(list((cache / "records").iterdir())) == 1
    assert path.exists()


def test_no_two_repositories_share_a_folder(hub: FakeHub, cache: Path) -> None:
    repositories = ["a/b", "x--y/z", "x/y--z", "x-/y", "x-y/z", "x%2D/y", "x/y-"]
    for name in repositories[:-2] + repositories[-1:]:
        hub.repo = name
        assert locate([ModelScopeRef(name)], cache=cache) is None
        fetch([ModelScopeRef(name)], cache=cache)
    assert sorted(e.name for e in entries(cache)) == sorted(n for n in repositories if "%" not in n)
