"""`model.download_dir`: fetched into that folder and found there by every command; the cache stays empty."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fakes import COMMIT, FakeHub, published, serve

from deploykit.cli.app import main
from deploykit.deployment import prepare
from deploykit.deployment.facts import find_on_disk
from deploykit.fsutil import cache_dir
from deploykit.recipe import load_recipe


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A recipe of a tiny model in a hub on the loopback interface."""
    from tokenizers import Tokenizer, models

    from deploykit.fsutil import write_atomic

    for name in ("HF_HUB_OFFLINE", "DEPLOYKIT_OFFLINE", "DEPLOYKIT_USE_MODELSCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "plan"))
    from plan_machines import write_checkpoint

    model = write_checkpoint(tmp_path / "tiny")
    write_atomic(
        model / "tokenizer.json", Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a")).to_str().encode()
    )
    files = {file.name: file.read_bytes() for file in model.iterdir()}
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "version: 1\nmodel: {id: owner/name, download_dir: ./models}\nengine: {device: cpu, backend: pytorch}\n"
    )
    with serve(FakeHub(files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield path


def test_every_command_that_needs_the_model_uses_the_folder(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", str(recipe), "--json"]) == 0
    path = Path(json.loads(capsys.readouterr().out)["path"])
    folder = tmp_path / "models"
    assert path == folder / "hf" / "owner--name" / "model" / COMMIT
    assert published(tmp_path / "cache") == []
    assert main(["pull", str(recipe), "--dry-run"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert main(["plan", str(recipe), "--offline"]) == 0
    found = find_on_disk(load_recipe(recipe), cache_dir())
    assert found is not None
    assert found.facts.path == str(path)
    made = prepare.prepare(str(recipe), offline=True)
    assert (Path(made.fetched.path), made.plan.model_path) == (path, str(path))


def test_the_cache_command_looks_into_the_folder_that_it_is_given(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", str(recipe)]) == 0
    capsys.readouterr()
    folder = tmp_path / "models"
    assert main(["cache", "verify", "--dir", str(folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [entry["ok"] for entry in data["entries"]] == [True]
    weights = next(folder.rglob("model.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    assert main(["cache", "verify", "--dir", str(folder)]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    assert main(["cache", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == []
    assert main(["cache", "ls", "--dir", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
