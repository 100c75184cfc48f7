"""What a model is, read from the headers of its files on a hub: the same facts that the whole files give."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import small_models
from hub_fakes import COMMIT, FakeHub, Fault, MakeRef

from deploykit.checkpoint import Facts, heads, read_facts
from deploykit.errors import DeploykitError
from deploykit.hub import fetch
from deploykit.hub.heads import view
from deploykit.hub.look import kept, look

MODELS: dict[str, Callable[[], dict[str, bytes]]] = {
    "single": small_models.whole,
    "sharded": small_models.sharded,
    "awq": small_models.awq,
}
GGUF = "small.gguf"


def read(refs: list[object], cache: Path, **options: bool) -> tuple[Facts, str]:
    found, _ = look(refs, cache=cache, reader=heads, **options)  # type: ignore[arg-type]
    with view(found, cache) as path:
        return read_facts(path), found.revision


def same(left: Facts, right: Facts) -> bool:
    strip = {"path": ""}
    return msgspec.structs.replace(left, **strip) == msgspec.structs.replace(right, **strip)


def header_bytes(data: bytes) -> int:
    return 8 + int(struct.unpack("<Q", data[:8])[0])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_facts_are_those_of_the_whole_files(
    hub: FakeHub, ref: MakeRef, cache: Path, kind: str, elsewhere: bool
) -> None:
    hub.files = MODELS[kind]()
    hub.stores_elsewhere = elsewhere
    facts, commit = read([ref()], cache)
    assert commit == COMMIT
    assert elsewhere == any(r.server == "storage" for r in hub.seen)
    assert not [r for r in hub.seen if r.server == "storage" and {"authorization", "cookie"} & set(r.headers)]
    for name, data in hub.files.items():
        if name.endswith(".safetensors"):
            assert hub.served[name] == header_bytes(data) < len(data) / 10
        elif name in ("tokenizer.json", "README.md"):
            assert name not in hub.served
        else:
            assert hub.served[name] == len(data)
    assert same(facts, read_facts(fetch([ref()], cache=cache).path))


def test_a_gguf_file(hub: FakeHub, ref: MakeRef, cache: Path, tmp_path: Path) -> None:
    data = small_models.gguf_file(tmp_path)
    hub.files = {GGUF: data}
    facts, _ = read([ref(file=GGUF)], cache)
    header = min(t.offset for t in facts.tensors)
    assert header > 64 << 10
    assert hub.served[GGUF] < 2 * header < len(data)
    assert same(facts, read_facts(fetch([ref(file=GGUF)], cache=cache).path))


def test_a_second_look_needs_no_connection(hub: FakeHub, ref: MakeRef, cache: Path) -> None:
    hub.files = small_models.sharded()
    assert kept([ref()], cache=cache) is None
    first, _ = read([ref()], cache)
    asked = len(hub.seen)
    again, _ = read([ref()], cache, offline=True)
    by_commit, _ = read([ref(revision=COMMIT)], cache, offline=True)
    assert same(first, again)
    assert same(first, by_commit)
    assert len(hub.seen) == asked
    assert not list((cache / "staging").iterdir())  # nothing that looks like a model is left
    fresh, _ = read([ref()], cache, fresh=True)
    assert same(first, fresh)
    assert not any(r.path.endswith("safetensors") for r in hub.seen[asked:])


def test_a_hub_that_knows_no_ranges_sends_no_weights(hub: FakeHub, ref: MakeRef, cache: Path) -> None:
    big = small_models.whole()
    hub.files = {**big, "model.safetensors": big["model.safetensors"] + bytes(64 << 20)}
    hub.always["model.safetensors"] = Fault(ignore_range=True)
    with pytest.raises(DeploykitError, match="can't be read by itself") as e:
        read([ref()], cache)
    assert "--fetch" in str(e.value.fix)
    assert kept([ref()], cache=cache) is None


def test_a_connection_that_breaks_is_opened_again(hub: FakeHub, ref: MakeRef, cache: Path) -> None:
    hub.files = small_models.sharded()
    hub.faults = {
        "config.json": [Fault(cut=10)],
        "model-00001-of-00002.safetensors": [Fault(status=503), Fault(cut=4)],
    }
    facts, _ = read([ref()], cache)
    assert same(facts, read_facts(fetch([ref()], cache=cache).path))


LIES: dict[str, tuple[str, bytes | Fault, str]] = {
    "an absurd header": (
        "model.safetensors",
        struct.pack("<Q", 1 << 40),
        "isn't|not a safetensors file|cut short",
    ),
    "another range": ("model.safetensors", Fault(content_range="bytes 5-12/99"), "another part"),
    "more than asked": (
        "model.safetensors",
        Fault(status=None, content_range="bytes 0-7/8"),
        "bytes instead of",
    ),
    "another config": ("config.json", b"{}" + b" " * 1000, "isn't the file|instead of"),
    "an endless body": ("config.json", Fault(endless=True), "sends more than"),
    "no such file": ("model.safetensors", Fault(status=404), "not found"),
    "no access": ("model.safetensors", Fault(status=403), "access refused"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_hub_that_lies(hub: FakeHub, ref: MakeRef, cache: Path, case: str) -> None:
    hub.files = small_models.whole()
    name, lie, expected = LIES[case]
    if isinstance(lie, bytes):
        hub.lies[name] = lie + hub.files[name][len(lie) :]
    else:
        hub.always[name] = lie
    with pytest.raises(DeploykitError, match=expected) as e:
        read([ref()], cache)
    assert name in str(e.value)
    assert kept([ref()], cache=cache) is None
