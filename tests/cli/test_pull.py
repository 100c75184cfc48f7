"""`deploykit pull`: what it fetches, what it shows before, and from where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fakes import COMMIT, FILES, FakeHub, serve

from deploykit.cli.app import main


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "DEPLOYKIT_OFFLINE", "DEPLOYKIT_USE_MODELSCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("HF_TOKEN", "hf_secretOfTheTest")
    with serve(FakeHub(dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.endpoint)
        yield running


def test_a_pull_says_what_it_got(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "owner/name"]) == 0
    out, err = capsys.readouterr()
    assert "source    hf owner/name@main" in out
    assert f"commit    {COMMIT}" in out
    path = Path(out.rpartition("path      ")[2].strip())
    assert path.is_relative_to(tmp_path)
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert f"weights: ok hf owner/name@main, commit {COMMIT[:12]}" in err
    assert "hf_secret" not in out + err
    asked = len(hub.seen)
    assert main(["pull", "owner/name", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["revision"], data["path"], data["failures"]) == (COMMIT, str(path), [])
    assert data["bytes"] == sum(p.stat().st_size for p in path.iterdir())
    assert len(hub.seen) == asked  # from the disk


def test_a_dry_run_fetches_nothing(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "owner/name", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"commit    {COMMIT}" in out
    assert "model.safetensors" in out
    assert "3.0 MiB to fetch" in out
    assert main(["pull", "owner/name", "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {f["name"] for f in data["files"]} == {
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
    }
    assert data["missing"] == data["bytes"] == sum(f["size"] for f in data["files"])
    assert (data["revision"], data["path"], data["present"]) == (COMMIT, None, 0)
    assert not (tmp_path / "cache").exists()
    main(["pull", "owner/name"])
    capsys.readouterr()
    assert main(["pull", "owner/name", "--dry-run"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out


def test_a_dry_run_of_every_source(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(source: str) -> tuple[dict[str, object], str]:
        recipe = tmp_path / "r.yaml"
        recipe.write_text(f"version: 1\nmodel: {{sources: [{source}]}}\n")
        assert main(["pull", str(recipe), "--dry-run", "--json"]) == 0
        data: dict[str, object] = json.loads(capsys.readouterr().out)
        assert main(["pull", str(recipe), "--dry-run"]) == 0
        return data, capsys.readouterr().out

    sizes = {name: len(data) for name, data in FILES.items()}
    for hub_name in ("hf", "modelscope"):
        data, text = shown(f"{{{hub_name}: owner/name}}")
        assert str(data["source"]).startswith(f"{hub_name} owner/name")
        assert all(f["size"] == sizes[f["name"]] for f in data["files"])  # type: ignore[attr-defined]
        assert data["missing"] == data["transfer"] == sum(f["size"] for f in data["files"])  # type: ignore[attr-defined]
        assert isinstance(data["free"], int)
        assert "are free" in text
    (tmp_path / "model").mkdir()
    data, text = shown("{path: model}")
    assert (data["path"], data["files"], data["missing"]) == (str(tmp_path / "model"), [], 0)
    assert "nothing to fetch: it is on the disk" in text
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_tells_that_the_disk_is_too_small(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.hub.disk.free_bytes", lambda path: 1000)
    assert main(["pull", "owner/name", "--dry-run"]) == 3
    assert "not enough disk space" in capsys.readouterr().err
    assert main(["pull", "owner/name", "--dry-run", "--json"]) == 3
    out, err = capsys.readouterr()
    data = json.loads(out)  # one object, with what would be fetched and what is in the way
    assert "not enough disk space" in data["error"]["what"]
    assert data["missing"] > data["free"]
    assert err == ""


def test_modelscope_first_for_plain_ids(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYKIT_USE_MODELSCOPE", "1")
    assert main(["pull", "owner/name"]) == 0
    assert "source    modelscope owner/name@master" in capsys.readouterr().out
    assert all(r.path.startswith("/api/v1/models/") for r in hub.seen)


def test_the_next_source_when_the_first_has_nothing(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\nmodel: {sources: [{hf: other/name}, {modelscope: owner/name, revision: master}]}\n"
    )
    assert main(["pull", str(recipe)]) == 0
    out, err = capsys.readouterr()
    assert "source    modelscope owner/name@master" in out
    assert "hf other/name@main: there is no such repository" in err


def test_bin_files_on_demand(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04", "consolidated.00.pth": b"\x80\x04"}
    assert main(["pull", "owner/name"]) == 1
    assert "deploykit pull owner/name --allow-bin" in capsys.readouterr().err
    assert main(["pull", "owner/name", "--allow-bin", "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["path"])
    assert {p.name for p in path.iterdir()} == set(hub.files)
    assert main(["pull", "owner/name", "--allow-bin"]) == 0
    assert f"next      deploykit convert {path} ./name" in capsys.readouterr().out
    assert main(["pull", "owner/name", "--offline"]) == 1  # what holds pickles isn't taken for a model


def test_what_is_no_target(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "nonsense"]) == 2
    assert "there is no 'nonsense'" in capsys.readouterr().err
    assert main(["pull", "owner/missing"]) == 1
    assert hub.asked_for("config.json") == []
