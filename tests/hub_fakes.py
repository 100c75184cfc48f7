"""A wheel made on the spot, and a hub on the loopback interface that speaks both protocols and misbehaves on order."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from deploykit.hub import HfRef, ModelScopeRef

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "f" * 40
NEWER = "abcd" * 10


def make_wheel(
    folder: Path, files: dict[str, bytes], *, name: str = "tiny_model", version: str = "1.0"
) -> Path:
    """A pure-Python wheel that pip accepts, holding `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for member, data in content.items():
            z.writestr(member, data)
        z.writestr(f"{info}/RECORD", "")
    return path


FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"T",
    "model.safetensors": os.urandom(3 << 20),
    "consolidated.safetensors": b"twice",
    "pytorch_model.bin": b"\x80\x04pickle",
    "training_args.bin": b"\x80\x04pickle",
    "modeling_evil.py": b"raise SystemExit",
    "README.md": b"hello",
    ".hidden.json": b"{}",
    "onnx/model.json": b"{}",
    "original/params.json": b"{}",
}
HF_TOKEN = "hf_thisIsAToken"
MS_TOKEN = "ms-this-is-a-token"

MakeRef = Callable[..., HfRef | ModelScopeRef]


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def published(cache: Path) -> list[str]:
    """Every file that somebody could take for a model's: all but locks, records, and what is staged."""
    hidden = ("locks", "records", "staging")
    return [name for name in names(cache) if not name.startswith(hidden)] if cache.exists() else []


@dataclass(frozen=True)
class Fault:
    """What is wrong with one answer. Without any of these it is a good one."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None  # the connection is reset after this many bytes of the body
    body: bytes | None = None  # in place of the file
    endless: bool = False  # a body without a length that doesn't end
    location: str | None = None  # redirects there
    ignore_range: bool = False
    delay: float = 0.0  # seconds before each of ten pieces of the body
    content_range: str | None = None  # in place of the right one
    gate: threading.Event | None = None  # no answer before it is set


GOOD = Fault()
TREE = {"Path": "onnx", "Name": "onnx", "Type": "tree", "Size": 0, "Revision": OLDER, "CommittedDate": 1}


@dataclass(frozen=True)
class Request:
    server: str  # hub or storage
    path: str
    headers: Mapping[str, str]


class FakeHub:
    """`files` of one repository at one commit, as Hugging Face and as ModelScope serve them, until it moves on.

    `faults[name]` are spent one an answer, for the file of that name or for `api`; `always[name]` stays.
    """

    def __init__(self, files: dict[str, bytes], repo: str = "owner/name") -> None:
        self.files = files
        self.repo = repo
        self.branches = {"main": COMMIT, "master": COMMIT}
        self.moved: dict[str, dict[str, bytes]] = {}  # files of other commits than COMMIT
        self.seen: list[Request] = []
        self.lies: dict[str, bytes] = {}  # served in place of what the listing says
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.token: str | None = None  # must be shown, if there is one
        self.stores_elsewhere = False  # files are redirected to another address, as the real hubs do
        self.head_dates = True  # ModelScope's listing tells which commit is the last one
        self.listing_override: bytes | None = None
        self.served: dict[str, int] = {}  # bytes of bodies that went out, by file
        self.endpoint = ""
        self.storage = ""
        self.lock = threading.Lock()

    def move(self, files: dict[str, bytes], commit: str = NEWER) -> None:
        """Every branch stands at another commit now; COMMIT can still be asked for."""
        self.moved[commit] = files
        self.branches = dict.fromkeys(self.branches, commit)

    def commit_of(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit == COMMIT or commit in self.moved else None

    def files_at(self, commit: str) -> dict[str, bytes]:
        return self.moved.get(commit, self.files)

    @property
    def requests(self) -> list[str]:
        return [unquote(r.path) for r in self.seen]

    def asked_for(self, name: str) -> list[Request]:
        """Requests for the bytes of a file, where they are stored."""
        return [
            r
            for r in self.seen
            if unquote(r.path).partition("?sig")[0].endswith(name) and "files?" not in r.path
        ]

    def next_fault(self, name: str) -> Fault:
        with self.lock:
            waiting = self.faults.get(name)
            return waiting.pop(0) if waiting else self.always.get(name, GOOD)

    def hf_listing(self, revision: str) -> bytes:
        commit = self.commit_of(revision) or COMMIT
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                **(
                    {
                        "lfs": {
                            "sha256": hashlib.sha256(data).hexdigest(),
                            "size": len(data),
                            "pointerSize": 100,
                        }
                    }
                    if name.endswith((".safetensors", ".gguf", ".bin"))
                    else {}
                ),
            }
            for name, data in self.files_at(commit).items()
        ]
        return json.dumps(
            {"id": self.repo, "sha": commit, "siblings": siblings, "tags": [], "private": False}
        ).encode()

    def ms_listing(self, revision: str) -> bytes:
        files: list[dict[str, object]] | None = None
        if (commit := self.commit_of(revision)) is not None:
            files = [dict(TREE)]
            for i, (name, data) in enumerate(self.files_at(commit).items()):
                files.append(
                    {
                        "Path": name,
                        "Name": name.rpartition("/")[2],
                        "Type": "blob",
                        "Size": len(data),
                        "Sha256": hashlib.sha256(data).hexdigest(),
                        "IsLFS": len(data) > 1000,
                        "Revision": commit if i == 0 and self.head_dates else OLDER,
                        "CommittedDate": 1_700_000_000 if i == 0 else 1_600_000_000 + i,
                    }
                )
        return json.dumps({"Code": 200, "Data": {"Files": files}, "Success": True, "Message": ""}).encode()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    servers = [_server(hub, name) for name in ("hub", "storage")]
    hub.endpoint, hub.storage = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    threads = [
        threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True) for s in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def _server(hub: FakeHub, name: str) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *args: object) -> None:
            """A client that goes away in the middle is what these tests are about."""

    return Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub, "server_name": name}))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    hub: FakeHub
    server_name: str

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path, query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        with hub.lock:
            hub.seen.append(
                Request(self.server_name, self.path, {k.lower(): v for k, v in self.headers.items()})
            )
        if self.server_name == "storage":
            place = path.removeprefix("/blob/")
            commit, _, name = place.partition("/")
            return self.file(name, commit) if hub.commit_of(commit) else self.file(place, COMMIT)
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(Fault(status=401, headers={"X-Error-Code": "RepoNotFound"}), b"{}")
        if path.startswith(f"/api/models/{hub.repo}/revision/"):
            revision = path.rsplit("/", 1)[1]
            known = hub.commit_of(revision) is not None
            lost = Fault(status=404, headers={"X-Error-Code": "RevisionNotFound"})
            listing = hub.hf_listing(revision) if hub.listing_override is None else hub.listing_override
            return self.answer(hub.next_fault("api") if known else lost, listing, kind="application/json")
        if path == f"/api/v1/models/{hub.repo}/repo/files":
            own = hub.listing_override
            listing = hub.ms_listing(query["Revision"]) if own is None else own
            return self.answer(hub.next_fault("api"), listing, kind="application/json")
        for commit in (COMMIT, *hub.moved):
            if path.startswith(f"/{hub.repo}/resolve/{commit}/"):
                return self.file_or_redirect(path.rsplit(f"/resolve/{commit}/", 1)[1], commit)
            if path == f"/api/v1/models/{hub.repo}/repo" and query["Revision"] == commit:
                return self.file_or_redirect(query["FilePath"], commit)
        return self.answer(Fault(status=404, headers={"X-Error-Code": "RepoNotFound"}), b"{}")

    def file_or_redirect(self, name: str, commit: str) -> None:
        if self.hub.stores_elsewhere and name in self.hub.files_at(commit):
            location = f"{self.hub.storage}/blob/{commit}/{quote(name)}?sig=1"
            return self.answer(Fault(status=302, headers={"Location": location}), b"")
        return self.file(name, commit)

    def file(self, name: str, commit: str) -> None:
        data = self.hub.lies.get(name, self.hub.files_at(commit).get(name))
        if data is None:
            return self.answer(Fault(status=404, headers={"X-Error-Code": "EntryNotFound"}), b"{}")
        return self.answer(self.hub.next_fault(name), data, ranges=True, name=name)

    def write(self, name: str, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        with self.hub.lock:
            self.hub.served[name] = self.hub.served.get(name, 0) + len(data)

    def answer(
        self, fault: Fault, body: bytes, *, ranges: bool = False, kind: str = "text/plain", name: str = "api"
    ) -> None:
        if fault.gate is not None:
            fault.gate.wait(60)
        status, headers = 200, {"Content-Type": kind, **fault.headers}
        if fault.location is not None:
            status, headers["Location"], body = 302, fault.location, b""
        elif fault.status is not None:
            status, body = fault.status, b"{}" if fault.status >= 400 else b""
        elif fault.body is not None:
            body = fault.body
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if ranges and wanted and status == 200 and not fault.ignore_range:
            start, stop, size = int(wanted[1]), int(wanted[2]) + 1, len(body)
            status, body = 206, body[start:stop]
            headers["Content-Range"] = fault.content_range or f"bytes {start}-{start + len(body) - 1}/{size}"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if fault.endless:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(OSError):
                while True:
                    self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.cut is not None:
            self.write(name, body[: fault.cut])
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        piece = max(1, len(body) // 10) if fault.delay else len(body) or 1
        for at in range(0, len(body), piece):
            time.sleep(fault.delay)
            self.write(name, body[at : at + piece])

    do_HEAD = do_GET
