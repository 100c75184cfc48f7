"""Where a wheel lies: the package index that pip is set to, asked for one package's files."""

from __future__ import annotations

import ast
import base64
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import msgspec

from deploykit.hub.http import Client, Problem
from deploykit.hub.types import NoHeaders

DEFAULT_INDEX = "https://pypi.org/simple"
_JSON = "application/vnd.pypi.simple.v1+json"
_ACCEPT = {"Accept": f"{_JSON}, text/html;q=0.2"}
_PIP_S = 60.0
# Where pip keeps a setting, the strongest first.
_SECTIONS = (":env:", "download", "global")


class Wheel(msgspec.Struct, frozen=True):
    """A wheel that pip could take: `path` where it lies on this machine, else its address."""

    name: str
    url: str = ""
    path: Path | None = None
    index: str = ""  # whose credentials may open the address


def find_wheel(package: str) -> Wheel:
    """The wheel of `name==version` for this Python, from the places that pip looks into.

    Raises Problem where an index can't be asked, and NoHeaders where none has it: pip may know other places.
    """
    name, _, version = package.partition("==")
    settings = _pip_settings()
    best: tuple[int, Wheel] | None = None
    for wheel in _candidates(settings, name):
        rank = _rank(wheel.name, name, version)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, wheel
    if best is None:
        raise NoHeaders(f"no package index has a wheel of {package} for this Python")
    return best[1]


def client_of(wheel: Wheel) -> Client:
    """A client whose credentials are those of the index that named the wheel, for its own address alone."""
    return _client(wheel.index)[0]


def _candidates(settings: Mapping[str, str], name: str) -> Iterator[Wheel]:
    for place in settings.get("find-links", "").split():
        yield from _local(place, name)
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return
    indexes = [settings.get("index-url", DEFAULT_INDEX), *settings.get("extra-index-url", "").split()]
    for index in indexes:
        if index.startswith(("http://", "https://")):
            yield from _listed(index, name)
        else:
            yield from _local(f"{index.rstrip('/')}/{_normal(name)}", name)


def _local(place: str, name: str) -> Iterator[Wheel]:
    """Wheels of a folder on this machine; find-links pages on the network aren't read."""
    folder = Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)
    if ("://" in place and not place.startswith("file:")) or not folder.is_dir():
        return
    for path in sorted(folder.glob("*.whl")):
        yield Wheel(path.name, path=path)


def _listed(index: str, name: str) -> Iterator[Wheel]:
    client, bare = _client(index)
    url = f"{bare.rstrip('/')}/{quote(_normal(name))}/"
    try:
        _, headers, body = client.get(url, _ACCEPT)
    except Problem as problem:
        if problem.status == 404:  # this index doesn't have it; another one may
            return
        raise
    finally:
        client.close()
    kind = next((v for k, v in headers if k.lower() == "content-type"), "")
    pairs = _of_json(body) if "json" in kind else _of_html(body)
    for file, link in pairs:
        target = urljoin(url, link).partition("#")[0]
        if target.startswith("https://") or (target.startswith("http://") and url.startswith("http://")):
            yield Wheel(file, target, None, index)


def _client(index: str) -> tuple[Client, str]:
    """A client for an index, and its address without what opens it."""
    parts = urlsplit(index)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    secrets: dict[str, str] = {}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        secrets["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Client(bare, secrets), bare


def _of_json(body: bytes) -> Iterator[tuple[str, str]]:
    try:
        data: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as e:
        raise Problem("the index's answer can't be read") from e
    files = data.get("files") if isinstance(data, dict) else None
    for file in files if isinstance(files, list) else ():
        if (
            isinstance(file, dict)
            and isinstance(file.get("filename"), str)
            and isinstance(file.get("url"), str)
        ):
            yield file["filename"], file["url"]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href")
        if tag == "a" and link:
            path = urlsplit(link).path
            self.found.append((unquote(path.rpartition("/")[2]), link))


def _of_html(body: bytes) -> list[tuple[str, str]]:
    parser = _Links()
    parser.feed(body.decode("utf-8", "replace"))
    return parser.found


def _rank(file: str, name: str, version: str) -> int | None:
    """How well a file's tags fit this Python, 0 best; None where it is another package, version or machine."""
    from packaging.tags import sys_tags
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    try:
        own_name, own_version, _, tags = parse_wheel_filename(file)
        if own_name != canonicalize_name(name) or own_version != Version(version):
            return None
    except (InvalidWheelFilename, InvalidVersion):
        return None
    return next((i for i, tag in enumerate(sys_tags()) if tag in tags), None)


def _normal(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _pip_settings() -> dict[str, str]:
    """pip's own configuration, from its files and its variables."""
    command = [sys.executable, "-m", "pip", "config", "list", "--no-input", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PIP_S,
            check=True,
            env=os.environ | {"NO_COLOR": "1"},
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise NoHeaders("pip doesn't tell where its index is", why=type(e).__name__) from None
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        key, _, text = line.partition("=")
        section, _, name = key.strip().rpartition(".")
        try:
            value = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            continue
        found.setdefault(section, {})[name] = str(value)
    settings: dict[str, str] = {}
    for section in reversed(_SECTIONS):
        settings |= found.get(section, {})
    return settings
