"""A wheel made on the spot, and a Hugging Face hub of a few routes on the loopback interface."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


class FakeHub:
    """`files` of one repository at one commit; `requests` are the paths asked for."""

    def __init__(self, files: dict[str, bytes], repo: str = "owner/name") -> None:
        self.files = files
        self.repo = repo
        self.requests: list[str] = []
        self.lies: dict[str, bytes] = {}  # served in place of what the listing says
        self.status: int | None = None  # answer everything with this
        self.endpoint = ""

    def listing(self) -> bytes:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": hashlib.sha1(data).hexdigest(),
                "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100},
            }
            for name, data in self.files.items()
        ]
        return json.dumps(
            {"id": self.repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        ).encode()


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            hub.requests.append(f"{self.command} {path}")
            if hub.status is not None:
                self.answer(hub.status)
            elif path in (f"/api/models/{hub.repo}/revision/{rev}" for rev in ("main", COMMIT)):
                self.answer(200, hub.listing(), Content_Type="application/json")
            elif path.startswith(f"/{hub.repo}/resolve/{COMMIT}/"):
                name = path.rsplit(f"/resolve/{COMMIT}/", 1)[1]
                data = hub.lies.get(name, hub.files.get(name))
                if data is None:
                    self.answer(404, X_Error_Code="EntryNotFound")
                else:
                    self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)
            elif path.startswith(f"/api/models/{hub.repo}/"):
                self.answer(404, X_Error_Code="RevisionNotFound")
            else:
                self.answer(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
