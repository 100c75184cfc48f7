"""`deploykit cache`: sizes and uses, removal that asks, verification, and what is left over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploykit.cli.app import main
from deploykit.hub.locks import hold, release
from deploykit.hub.records import Record, write_record
from deploykit.hub.types import PinnedFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
WHEEL_SHA256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"  # of b"foo"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One model, one file out of a wheel with what was converted from it, and one interrupted fetch."""
    root = tmp_path / "cache"
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(root))
    monkeypatch.chdir(tmp_path)
    model = root / "hf" / "owner--name" / "model" / COMMIT
    model.mkdir(parents=True)
    (model / "config.json").write_bytes(b"")
    (root / "hf" / "owner--name" / "refs").mkdir()
    (root / "hf" / "owner--name" / "refs" / "main").write_text(COMMIT)
    files = (PinnedFile("config.json", 0, EMPTY_SHA256),)
    write_record(root, model, Record(source="hf owner/name@main", revision=COMMIT, fetched=1e9, files=files))
    wheel = root / "files" / WHEEL_SHA256 / "m.gguf"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"foo")
    files = (PinnedFile("m.gguf", 3, WHEEL_SHA256),)
    write_record(root, wheel, Record(source="pypi a==1", revision=WHEEL_SHA256, fetched=1e9, files=files))
    made = root / "converted" / f"{WHEEL_SHA256[:32]}-2-bfloat16" / "model.safetensors"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"xx")
    partial = root / "staging" / "hf-owner--other-0" / "model.safetensors.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half")
    return root


def run(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    assert main(["cache", *args, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["id"] for row in rows}


def test_ls(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("version: 1\nmodel: {id: owner/name}\n")
    data = run(capsys, "ls")
    rows = {row["id"]: row for row in data["entries"]}
    assert set(rows) == {
        f"owner/name@{COMMIT[:12]}",
        f"a==1@{WHEEL_SHA256[:12]}",
        f"{WHEEL_SHA256[:32]}-2-bfloat16",
        "hf-owner--other-0",
    }
    assert data["bytes"] == 9
    assert rows[f"owner/name@{COMMIT[:12]}"]["used_by"] == ["recipe mine"]
    assert main(["cache", "ls"]) == 0
    out = capsys.readouterr().out
    assert "recipe mine; branch main" in out
    assert "an interrupted fetch; `pull` goes on with it" in out
    assert f"9 B in {cache}" in out
    assert ids(run(capsys, "ls", "owner/name")["entries"]) == {f"owner/name@{COMMIT[:12]}"}


def test_rm_asks_and_takes_what_was_made_of_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", "a==1"]) == 2
    assert "add --yes" in capsys.readouterr().err
    gone = {f"a==1@{WHEEL_SHA256[:12]}", f"{WHEEL_SHA256[:32]}-2-bfloat16"}
    assert ids(run(capsys, "rm", "a==1", "--dry-run")["removed"]) == gone
    assert (cache / "files" / WHEEL_SHA256 / "m.gguf").exists()
    data = run(capsys, "rm", "a==1", "--yes")
    assert (ids(data["removed"]), data["bytes"], data["kept"]) == (gone, 5, [])
    assert not (cache / "files" / WHEEL_SHA256).exists()
    assert not list((cache / "converted").iterdir())
    assert ids(run(capsys, "ls")["entries"]) == {f"owner/name@{COMMIT[:12]}", "hf-owner--other-0"}


def test_rm_keeps_what_is_in_use(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = cache / "hf" / "owner--name" / "model" / COMMIT
    assert hold(model, cache)
    try:
        data = run(capsys, "rm", "owner/name", "--yes", code=1)
    finally:
        release(model, cache)
    assert data["removed"] == []
    assert "in use" in data["kept"][0]["reason"]
    assert (model / "config.json").exists()
    wheel = cache / "files" / WHEEL_SHA256 / "m.gguf"
    assert hold(wheel, cache)
    try:
        data = run(capsys, "rm", "a==1", "--yes", code=1)
    finally:
        release(wheel, cache)
    assert data["removed"] == []  # what was made of it stays with it
    assert main(["cache", "rm", "owner/name@main", "-y"]) == 0
    assert f"removed owner/name@{COMMIT[:12]}" in capsys.readouterr().out
    assert not (cache / "hf" / "owner--name").exists()


def test_verify(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run(capsys, "verify")
    assert data["ok"] is True
    assert {v["id"]: v["ok"] for v in data["entries"]} == {
        f"owner/name@{COMMIT[:12]}": True,
        f"a==1@{WHEEL_SHA256[:12]}": True,
    }
    (cache / "files" / WHEEL_SHA256 / "m.gguf").write_bytes(b"fox")
    assert run(capsys, "verify", "a==1", code=1)["ok"] is False
    assert main(["cache", "verify"]) == 1
    out, err = capsys.readouterr()
    assert "DAMAGED: m.gguf: its sha256 should be" in out
    assert f"owner/name@{COMMIT[:12]}: 1 file as they arrived" in out
    assert "deploykit cache rm" in err


def test_prune(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "prune")["removed"] == []  # it was touched a moment ago
    assert ids(run(capsys, "prune", "--older-than", "0s", "--dry-run")["removed"]) == {"hf-owner--other-0"}
    stage = cache / "staging" / "hf-owner--other-0"
    for path in (stage / "model.safetensors.partial", stage):
        os.utime(path, (1, 1))
    assert main(["cache", "prune"]) == 0
    out = capsys.readouterr().out
    assert "removed hf-owner--other-0  4 B  (an interrupted fetch)" in out
    assert "4 B freed" in out
    assert not stage.exists()


@pytest.mark.parametrize(
    "args",
    [
        ["ls", "nobody/nothing"],
        ["rm"],
        ["rm", "owner/nam", "--yes"],
        ["prune", "owner/name"],
        ["prune", "--older-than", "soon"],
        ["prune", "--yes"],
        ["verify", "--dry-run"],
        ["ls", "--older-than", "1h"],
        ["explode"],
    ],
)
def test_wrong_words(cache: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    before = sorted(cache.rglob("*"))
    assert main(["cache", *args]) == 2
    assert capsys.readouterr().err
    assert [p for p in sorted(cache.rglob("*")) if "locks" not in p.parts] == before


def test_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "none"))
    assert run(capsys, "ls")["entries"] == []
    assert run(capsys, "verify")["ok"] is True
    assert run(capsys, "prune")["removed"] == []
    assert main(["cache", "ls"]) == 0
    assert "the cache is empty" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
