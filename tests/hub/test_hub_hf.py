"""Hugging Face repositories against a hub of our own on the loopback interface."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fakes import COMMIT, FakeHub, serve

from deploykit.errors import ConfigError, DeploykitError
from deploykit.hub import FetchProgress, HfRef, fetch, locate
from deploykit.hub import hf as hf_module

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"T",
    "model.safetensors": os.urandom(300_000),
    "consolidated.safetensors": b"twice",
    "pytorch_model.bin": b"\x80\x04pickle",
    "modeling_evil.py": b"raise SystemExit",
    "README.md": b"hello",
    ".hidden.json": b"{}",
    "onnx/model.json": b"{}",
    "original/params.json": b"{}",
}
WANTED = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
REF = HfRef("owner/name")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serve(FakeHub(dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_model_pinned_to_its_commit(hub: FakeHub, cache: Path) -> None:
    seen: list[FetchProgress] = []
    got = fetch([REF], cache=cache, report=seen.append)
    assert got.revision == COMMIT
    assert got.source == "hf owner/name@main"
    assert names(got.path) == WANTED
    assert all((got.path / name).read_bytes() == FILES[name] for name in WANTED)
    assert not any(p.is_symlink() for p in got.path.iterdir())
    assert seen[0].total == sum(len(FILES[n]) for n in WANTED)
    resolved = [r for r in hub.requests if "/resolve/" in r]
    assert resolved
    assert all(COMMIT in r for r in resolved)
    assert not any(name in r for r in resolved for name in (".bin", ".py", "consolidated", "onnx", "README"))
    assert list((cache / "staging").iterdir()) == []


def test_then_from_the_disk(hub: FakeHub, cache: Path) -> None:
    first = fetch([REF], cache=cache)
    asked = len(hub.requests)
    assert fetch([REF], cache=cache) == first
    assert locate([HfRef("owner/name", COMMIT)], cache=cache).path == first.path  # type: ignore[union-attr]
    assert locate([HfRef("owner/name", "other")], cache=cache) is None
    assert locate([HfRef("owner/name", "f" * 40)], cache=cache) is None
    assert len(hub.requests) == asked


def test_one_gguf_file(hub: FakeHub, cache: Path) -> None:
    hub.files = {"m-Q8_0.gguf": os.urandom(100_000), "m-Q4_0.gguf": b"x"}
    got = fetch([HfRef("owner/name", file="m-Q8_0.gguf")], cache=cache)
    assert got.path.read_bytes() == hub.files["m-Q8_0.gguf"]
    assert got.path.name == "m-Q8_0.gguf"
    assert not any("Q4_0" in r for r in hub.requests)
    assert locate([REF], cache=cache) is None  # one file isn't the model
    with pytest.raises(DeploykitError) as e:
        fetch([HfRef("owner/name", file="m-Q5_0.gguf")], cache=cache)
    assert "m-Q8_0.gguf" in str(e.value)


def test_repositories_without_safetensors(hub: FakeHub, cache: Path) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(DeploykitError, match="pickles"):
        fetch([REF], cache=cache)
    hub.files = {"a.gguf": b"x"}
    with pytest.raises(DeploykitError) as e:
        fetch([REF], cache=cache)
    assert "a.gguf" in str(e.value.fix)
    hub.files = {"README.md": b"x"}
    with pytest.raises(DeploykitError, match="no model weights"):
        fetch([REF], cache=cache)
    assert not any("/resolve/" in r for r in hub.requests)


def test_a_file_that_is_not_what_the_listing_says(hub: FakeHub, cache: Path) -> None:
    hub.lies["model.safetensors"] = bytes(len(FILES["model.safetensors"]))
    with pytest.raises(DeploykitError, match="isn't the file"):
        fetch([REF], cache=cache)
    assert locate([REF], cache=cache) is None
    hub.lies.clear()
    assert names(fetch([REF], cache=cache).path) == WANTED


def test_an_interrupt_shows_nothing_and_goes_on_later(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_module, "sha256_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch([REF], cache=cache)
    assert locate([REF], cache=cache) is None
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    hub.requests.clear()
    assert names(fetch([REF], cache=cache).path) == WANTED
    assert not any(
        r.startswith("GET") and "/resolve/" in r for r in hub.requests
    )  # what had arrived was kept


def test_disk_space_is_asked_for_before_a_download(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.hub.disk.free_bytes", lambda path: 1000)
    with pytest.raises(DeploykitError) as e:
        fetch([REF], cache=cache)
    assert "disk space" in str(e.value)
    assert e.value.exit_code == 3
    assert not any("/resolve/" in r for r in hub.requests)


def test_errors_say_what_to_do(hub: FakeHub, cache: Path) -> None:
    with pytest.raises(DeploykitError, match="no such repository") as e:
        fetch([HfRef("owner/missing")], cache=cache)
    assert "HF_TOKEN" in str(e.value)
    with pytest.raises(DeploykitError, match="no revision v9"):
        fetch([HfRef("owner/name", "v9")], cache=cache)
    hub.status = 418
    with pytest.raises(DeploykitError, match="answered 418"):
        fetch([REF], cache=cache)


def test_no_network_at_all(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{probe.getsockname()[1]}")  # nobody listens
        with pytest.raises(DeploykitError, match="couldn't be reached") as e:
            fetch([REF], cache=cache)
    assert "HF_ENDPOINT" in str(e.value)


def test_a_hub_that_never_answers_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One time limit, no second try: the next source gets its turn."""
    monkeypatch.setattr(hf_module, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DeploykitError, match="couldn't be reached"):
            fetch([REF], cache=cache)
        silent.accept()[0].close()
        silent.settimeout(0.2)
        with pytest.raises(TimeoutError):  # it was asked once
            silent.accept()


@pytest.mark.parametrize(
    ("repo", "revision", "file"),
    [
        ("name", "main", None),
        ("a/b/c", "main", None),
        ("../b", "main", None),
        ("a/..", "main", None),
        ("a/b", "../x", None),
        ("a/b", "", None),
        ("a/b", "-x", None),
        ("a/b", "main", "../x.gguf"),
        ("a/b", "main", "/x.gguf"),
        ("a/b", "main", "pytorch_model.bin"),
        ("a/b", "main", "*.gguf"),
    ],
)
def test_refs_are_checked(repo: str, revision: str, file: str | None) -> None:
    with pytest.raises(ConfigError):
        HfRef(repo, revision, file)
