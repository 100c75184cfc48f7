"""A hub that misbehaves: resets, wrong lengths and sums, redirects, refusals, endless answers. Both protocols.

Each fault ends in the right bytes or in an error that names the file; nothing is half visible either way, and what
opens the hub is never shown to anybody else.
"""

from __future__ import annotations

import email.utils
import gzip
import json
import time
from pathlib import Path

import pytest
from hub_fakes import COMMIT, FILES, HF_TOKEN, MS_TOKEN, FakeHub, Fault, MakeRef, names, published

from deploykit.errors import DeploykitError
from deploykit.hub import HfRef, fetch, locate
from deploykit.hub import http as http_module
from deploykit.hub import parts as parts_module

WEIGHTS = "model.safetensors"
RIGHT = FILES[WEIGHTS]


def right(path: Path) -> bool:
    return all((path / n).read_bytes() == FILES[n] for n in names(path)) and WEIGHTS in names(path)


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(cut=0)],
        [Fault(cut=1)],
        [Fault(cut=200_000), Fault(cut=100_000), Fault(cut=0)],
        [Fault(cut=70_000)] * 12,  # every try brings something: that is no reason to give up
        [Fault(status=503, headers={"Retry-After": "0"})],
        [Fault(status=429, headers={"Retry-After": "0"}), Fault(status=500), Fault(status=502)],
        [Fault(status=504)] * 4,
        [Fault(delay=0.005)] * 3,
    ],
    ids=["reset", "one-byte", "resets", "many-resets", "503", "429-500-502", "504s", "slow"],
)
def test_what_passes_is_waited_for(hub: FakeHub, cache: Path, ref: MakeRef, faults: list[Fault]) -> None:
    hub.faults[WEIGHTS] = list(faults)
    assert right(fetch([ref()], cache=cache).path)
    assert hub.faults[WEIGHTS] == []


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(cut=0), "RemoteProtocolError|ReadError|connection"),
        (Fault(status=500), "500"),
        (Fault(status=401), "refused"),
        (Fault(status=403), "refused"),
        (Fault(status=404), "not found"),
        (Fault(status=418), "418"),
        (Fault(status=416), "416"),
        (Fault(status=429, headers={"Retry-After": "86400"}), "asks to wait 86400 s"),
        (Fault(body=b"<html>please log in</html>", ignore_range=True), "instead of|whole|ended after"),
        (Fault(endless=True, ignore_range=True), "more than"),
        (Fault(status=200, headers={"Content-Encoding": "gzip"}), "compressed"),
        (Fault(location="gopher://evil/x"), "redirects to nowhere"),
        (Fault(location=""), "redirects to nowhere"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_stays_wrong_names_the_file(
    hub: FakeHub, cache: Path, ref: MakeRef, name: str, fault: Fault, why: str
) -> None:
    hub.always[name] = fault
    with pytest.raises(DeploykitError) as e:
        fetch([ref()], cache=cache)
    text = str(e.value)
    assert name in text
    assert any(word in text for word in why.split("|")), text
    assert HF_TOKEN not in text
    assert MS_TOKEN not in text
    assert locate([ref()], cache=cache) is None
    assert published(cache) == []
    hub.always.clear()
    assert right(fetch([ref()], cache=cache).path)


def test_other_bytes_of_the_right_length(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    for name in (
        "config.json",
        WEIGHTS,
    ):  # one has a sha256 in every listing; on Hugging Face the other has git's sum
        hub.lies[name] = bytes(len(FILES[name]))
        with pytest.raises(DeploykitError, match="isn't the file") as e:
            fetch([ref()], cache=cache)
        assert name in str(e.value)
        assert published(cache) == []
        hub.lies.clear()
    assert right(fetch([ref()], cache=cache).path)


def test_another_part_than_was_asked_for(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    size = len(RIGHT)
    for content_range in (f"bytes 7-1048582/{size}", f"bytes 0-1048575/{size + 1}", "bytes */5", "nonsense"):
        hub.always[WEIGHTS] = Fault(content_range=content_range)
        with pytest.raises(DeploykitError, match="couldn't be fetched") as e:
            fetch([ref()], cache=cache)
        assert WEIGHTS in str(e.value)
        assert published(cache) == []


def test_a_hub_that_knows_no_ranges(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.always[WEIGHTS] = Fault(ignore_range=True)
    hub.faults[WEIGHTS] = [Fault(ignore_range=True)] * 4 + [Fault(ignore_range=True, cut=500_000)]
    assert right(fetch([ref()], cache=cache).path)


@pytest.mark.parametrize("wait", ["1", "date"])
def test_a_pause_that_the_hub_asks_for_is_kept(
    hub: FakeHub, cache: Path, ref: MakeRef, wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(http_module.time, "sleep", slept.append)
    if wait == "date":
        wait = email.utils.formatdate(time.time() + 2, usegmt=True)
    hub.faults["api"] = [Fault(status=503, headers={"Retry-After": wait})]
    fetch([ref()], cache=cache)
    assert slept
    assert max(slept) == pytest.approx(1.0, abs=1.1)


def test_a_hub_that_stays_busy(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.always["api"] = Fault(status=503)
    with pytest.raises(DeploykitError, match="refused") as e:
        fetch([ref()], cache=cache)
    assert "503" in str(e.value)
    assert len(hub.seen) == 3
    assert "try again later" in str(e.value)


def test_what_opens_the_hub_goes_to_the_hub_alone(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.token = HF_TOKEN if "Hf" in type(ref()).__name__ else MS_TOKEN
    hub.stores_elsewhere = True
    assert right(fetch([ref()], cache=cache).path)
    here = [r for r in hub.seen if r.server == "hub"]
    there = [r for r in hub.seen if r.server == "storage"]
    assert here
    assert there
    assert all(r.headers["authorization"] == f"Bearer {hub.token}" for r in here)
    for r in there:
        assert not {"authorization", "cookie", "proxy-authorization"} & set(r.headers)
        assert hub.token not in str(r)
    assert HF_TOKEN not in "".join(p.read_text(errors="replace") for p in cache.rglob("*") if p.is_file())


@pytest.mark.parametrize("where", ["localhost", "another port", "api"])
def test_a_redirect_to_another_address_drops_it(
    hub: FakeHub, cache: Path, ref: MakeRef, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same machine, other name or other port: still somebody else."""
    port = hub.storage.rpartition(":")[2]
    target = f"http://{'localhost' if where == 'localhost' else '127.0.0.1'}:{port}/blob/"
    if where == "api":
        hub.always["api"] = Fault(location=f"{hub.storage}/api/models/owner/name/revision/main")
        with pytest.raises(DeploykitError):
            fetch([ref()], cache=cache)
    else:
        hub.faults["config.json"] = [Fault(location=f"{target}config.json")]
        fetch([ref()], cache=cache)
    there = [r for r in hub.seen if r.server == "storage"]
    assert there
    assert all("authorization" not in r.headers and "cookie" not in r.headers for r in there)


def test_nobody_else_is_asked_over_an_unencrypted_line() -> None:
    with pytest.raises(http_module.Problem, match="unencrypted"):
        http_module._next("https://hub.example/a", "http://hub.example/b")
    assert http_module._next("https://hub.example/a", "/b") == "https://hub.example/b"


def test_a_loop_of_redirects_ends(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.always["config.json"] = Fault(location=f"{hub.storage}/blob/config.json")
    with pytest.raises(DeploykitError, match=r"config\.json") as e:
        fetch([ref()], cache=cache)
    assert "more than 8 times" in str(e.value)


def test_an_address_of_the_storage_that_has_expired(
    hub: FakeHub, cache: Path, ref: MakeRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked for another one."""
    monkeypatch.setattr(parts_module, "CONNECTIONS", 1)
    hub.stores_elsewhere = True
    hub.faults[WEIGHTS] = [Fault(), Fault(status=403)]
    assert right(fetch([ref()], cache=cache).path)


def test_names_that_lead_out_of_the_folder(hub: FakeHub, cache: Path, ref: MakeRef, tmp_path: Path) -> None:
    evil = [
        "../evil.json",
        "/tmp/evil.json",
        "..",
        "a/../../evil.json",
        "x\0.json",
        "nul\n.json",
        ".json",
        "~.json",
    ]
    evil += ["..\\evil.json", "%2e%2e/evil.json", "a" * 300 + ".json", "*.json", "con:stream.json"]
    for name in evil:
        hub.files[name] = b"evil"
    path = fetch([ref()], cache=cache).path
    assert set(names(path)) <= set(FILES)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b'{"sha": 7}',
        b'{"id": "a/b", "sha": "' + b"g" * 40 + b'", "siblings": []}',
        b'{"siblings": 5, "Data": 7}',
        b'{"Data": {"Files": {"a": 1}}}',
        b'{"Data": {"Files": [1, null, "x", {"Path": 5, "Size": -1}]}}',
        b'{"id": "a/b", "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": 5}]}',
        b'{"id": "a/b", "siblings": [{}]}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_a_listing_that_is_none(hub: FakeHub, cache: Path, ref: MakeRef, listing: bytes) -> None:
    hub.listing_override = listing
    with pytest.raises(DeploykitError) as e:
        fetch([ref()], cache=cache)
    assert "owner/name" in str(e.value)
    assert not any("/resolve/" in r or "FilePath" in r for r in hub.requests)


def test_an_endless_listing(hub: FakeHub, cache: Path, ref: MakeRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "MAX_ANSWER", 1 << 20)
    hub.always["api"] = Fault(endless=True)
    with pytest.raises(DeploykitError, match="couldn't be") as e:
        fetch([ref()], cache=cache)
    assert "larger than 1 MiB" in str(e.value)


def test_a_listing_that_drips(
    hub: FakeHub, cache: Path, ref: MakeRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "ANSWER_S", 0.1)
    hub.always["api"] = Fault(delay=0.05)
    with pytest.raises(DeploykitError, match="longer than"):
        fetch([ref()], cache=cache)


def test_a_compressed_bomb_isnt_unpacked(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    hub.listing_override = gzip.compress(bytes(10 << 20))
    hub.always["api"] = Fault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(DeploykitError, match="couldn't be") as e:
        fetch([ref()], cache=cache)
    assert "compressed" in str(e.value)


def test_a_listing_of_very_many_files(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    size = [
        {"rfilename": f"x{i}.txt", "size": 1, "blobId": "0" * 40, "Path": f"x{i}.txt", "Size": 1}
        for i in range(20_000)
    ]
    hub.listing_override = json.dumps(
        {"id": "a/b", "sha": "0" * 40, "siblings": size, "Data": {"Files": size}}
    ).encode()
    with pytest.raises(DeploykitError, match="no model weights"):
        fetch([ref()], cache=cache)


def test_a_mirror_that_lists_no_sizes(hub: FakeHub, cache: Path) -> None:
    """A proxy of Hugging Face may list names alone; the files' own headers tell the rest."""
    siblings = [{"rfilename": name} for name in FILES]
    hub.listing_override = json.dumps({"id": "a/b", "sha": COMMIT, "siblings": siblings}).encode()
    assert right(fetch([HfRef("owner/name")], cache=cache).path)
    hub.always["config.json"] = Fault(endless=True)
    with pytest.raises(DeploykitError, match=r"size of config\.json"):
        fetch([HfRef("owner/name", allow_bin=True)], cache=cache)


@pytest.mark.parametrize("token", ["hf_a\tb", "hf_a b", "hf_\u00e4", "hf_\x01"])
def test_a_token_that_cannot_be_sent_isnt_shown(
    hub: FakeHub, cache: Path, ref: MakeRef, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", token)
    with pytest.raises(DeploykitError, match="TOKEN holds no token") as e:
        fetch([ref()], cache=cache)
    assert "hf_" not in str(e.value)
    assert hub.seen == []


@pytest.mark.parametrize(
    "address", ["nonsense", "http://", "http://[::1", "gopher://x", "http://127.0.0.1:99999"]
)
def test_an_endpoint_that_is_none(
    hub: FakeHub, cache: Path, ref: MakeRef, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    with pytest.raises(DeploykitError):
        fetch([ref()], cache=cache)


@pytest.mark.parametrize("size", [-1, 1 << 62, "5", None, 1.5, True])
def test_sizes_that_are_none(hub: FakeHub, cache: Path, ref: MakeRef, size: object) -> None:
    hf = {"rfilename": WEIGHTS, "size": size, "blobId": "0" * 40}
    ms = {"Path": WEIGHTS, "Size": size, "Type": "blob", "Revision": "0" * 40}
    hub.listing_override = json.dumps(
        {"id": "a/b", "sha": "0" * 40, "siblings": [hf], "Data": {"Files": [ms]}}
    ).encode()
    with pytest.raises(DeploykitError):
        fetch([ref()], cache=cache)
    assert published(cache) == []


def test_a_model_larger_than_any_disk(hub: FakeHub, cache: Path, ref: MakeRef) -> None:
    size = 1 << 49
    hf = {"rfilename": WEIGHTS, "size": size, "blobId": "0" * 40}
    ms = {
        "Path": WEIGHTS,
        "Size": size,
        "Type": "blob",
        "Revision": "0123456789abcdef0123456789abcdef01234567",
    }
    hub.listing_override = json.dumps(
        {"id": "a/b", "sha": "0" * 40, "siblings": [hf], "Data": {"Files": [ms]}}
    ).encode()
    with pytest.raises(DeploykitError, match="disk space") as e:
        fetch([ref()], cache=cache)
    assert e.value.exit_code == 3
