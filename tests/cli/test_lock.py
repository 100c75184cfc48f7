"""`deploykit lock`, and the commands that are held to it: the same bytes, or an error that says what differs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_fakes import COMMIT, NEWER, FakeHub, serve
from modelscope_asked import asked_in_a_fork

from deploykit import shipped
from deploykit.cli.app import main
from deploykit.hub import modelscope
from deploykit.hub.modelscope_sdk import Told

sys.path.insert(0, str(Path(__file__).parent.parent / "hub"))
import small_models

LAPTOP = ["--machine", "laptop", "--set", "engine.cache.blocks=16"]


@pytest.fixture(scope="module")
def sdk() -> Iterator[Callable[[bytes, str], Told]]:
    with asked_in_a_fork() as run:
        yield run


@pytest.fixture
def hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sdk: Callable[[bytes, str], Told]
) -> Iterator[FakeHub]:
    monkeypatch.setattr(modelscope, "_run", sdk)
    for name in ("HF_HUB_OFFLINE", "DEPLOYKIT_OFFLINE", "DEPLOYKIT_USE_MODELSCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    with serve(FakeHub(small_models.whole())) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture(params=["hf", "modelscope"])
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(f"version: 1\nname: mine\nmodel:\n  sources: [{{{request.param}: owner/name}}]\n")
    return path


def lock_of(recipe: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(recipe.with_suffix(".lock").read_text())
    return found


def change(recipe: Path, **keys: object) -> None:
    recipe.with_suffix(".lock").write_text(json.dumps({**lock_of(recipe), **keys}))


def test_a_lock_names_commit_files_and_sums(
    hub: FakeHub, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", str(recipe)]) == 0
    assert COMMIT[:12] in capsys.readouterr().out
    lock = lock_of(recipe)
    assert (lock["repo"], lock["commit"], lock["recipe"]) == ("owner/name", COMMIT, "mine")
    wanted = {
        name: (len(data), hashlib.sha256(data).hexdigest())
        for name, data in hub.files.items()
        if name != "README.md"
    }
    assert {f["name"]: (f["size"], f["sha256"]) for f in lock["files"]} == wanted  # type: ignore[attr-defined, index]
    assert "model.safetensors" not in hub.served  # its sum is told by the hub
    text = recipe.with_suffix(".lock").read_text()
    assert main(["pull", str(recipe)]) == 0
    for options in ([], ["--offline"]):  # from the disk it is the same
        assert main(["lock", str(recipe), *options]) == 0
        assert recipe.with_suffix(".lock").read_text() == text


def test_a_locked_commit_is_fetched_although_the_branch_has_moved(
    hub: FakeHub, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", str(recipe)]) == 0
    assert main(["lock", str(recipe), "--check"]) == 0
    hub.move({**hub.files, "model.safetensors": hub.files["model.safetensors"][:-1] + b"!"})
    capsys.readouterr()
    assert main(["lock", str(recipe), "--check"]) == 1
    out = capsys.readouterr().out
    assert f"is commit {NEWER[:12]}, locked is {COMMIT[:12]}" in out
    assert "model.safetensors has sha256" in out
    assert main(["plan", str(recipe), *LAPTOP, "--locked"]) == 0
    assert COMMIT[:12] in capsys.readouterr().out
    assert main(["pull", str(recipe), "--locked", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["revision"] == COMMIT
    assert (Path(data["path"]) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert main(["pull", str(recipe), "--json"]) == 0  # without it the branch is taken
    assert json.loads(capsys.readouterr().out)["revision"] == NEWER


@pytest.mark.parametrize("command", ["up", "plan", "pull"])
def test_what_is_refused(
    hub: FakeHub, recipe: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: int, *words: str) -> None:
        args = ["--set", "server.port=0"] if command == "up" else LAPTOP if command == "plan" else []
        assert main([command, str(recipe), "--locked", *args]) == code
        err = capsys.readouterr().err
        assert all(word in err for word in words), err

    refused(2, "there is no lock of mine", f"deploykit lock {recipe}")
    assert main(["lock", str(recipe)]) == 0
    whole = recipe.with_suffix(".lock").read_text()
    text = recipe.read_text()
    recipe.write_text(text.replace("model:\n", "model:\n  dtype: float32\n"))
    refused(2, "made for another recipe", "hf" if "hf:" in text else "modelscope")
    recipe.write_text(text + "engine: {session_len: 512}\n")  # says nothing about which model it is
    files = json.loads(whole)["files"]
    for at, (key, value) in {0: ("sha256", "0" * 64), 1: ("size", 5)}.items():
        change(recipe, files=[{**f, key: value} if i == at else f for i, f in enumerate(files)])
        refused(1, files[at]["name"])
    change(recipe, files=[*files, {"name": "other.json", "size": 1, "sha256": "a" * 64}])
    refused(1, "other.json is gone", "isn't the one that was locked")
    change(recipe, files=files, commit=NEWER)
    refused(1)
    for broken in (whole[:-20], "[]", whole.replace('"version": 1', '"version": 7'), ""):
        recipe.with_suffix(".lock").write_text(broken)
        refused(2, "the lock is damaged")
    for name in ("../../evil.json", "/etc/passwd", "a//b"):
        recipe.with_suffix(".lock").write_text(whole.replace("config.json", name, 1))
        refused(2, "isn't the name of a file")
    assert not [n for n in hub.served if n.endswith("evil.json")]


def test_a_copy_on_the_disk_must_be_the_locked_one(
    hub: FakeHub, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lock", str(recipe)]) == 0
    assert main(["pull", str(recipe), "--locked"]) == 0
    files = [{**f, "sha256": "0" * 64} if f["name"] == "config.json" else f for f in lock_of(recipe)["files"]]  # type: ignore[attr-defined]
    change(recipe, files=files)
    capsys.readouterr()
    assert main(["pull", str(recipe), "--locked", "--offline"]) == 1
    assert "config.json has sha256" in capsys.readouterr().err


def test_a_profile_has_a_lock_of_its_own(
    hub: FakeHub, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "hf" if "hf:" in recipe.read_text() else "modelscope"
    profiles = f"""\
  other: {{model: {{sources: [{{{place}: owner/name, revision: {COMMIT}}}]}}}}
  short: {{engine: {{session_len: 512}}}}
"""
    recipe.write_text(f"{recipe.read_text()}profiles:\n{profiles}")
    assert main(["lock", str(recipe)]) == 0
    assert main(["plan", str(recipe), *LAPTOP, "--locked", "--profile", "short"]) == 0  # the same model
    assert main(["plan", str(recipe), *LAPTOP, "--locked", "--profile", "other"]) == 2
    err = capsys.readouterr().err
    assert "deploykit lock" in err
    assert "--profile other" in err
    assert main(["lock", str(recipe), "--profile", "other"]) == 0
    assert recipe.with_name("r.other.lock").is_file()
    assert main(["plan", str(recipe), *LAPTOP, "--locked", "--profile", "other"]) == 0


def test_a_path_is_locked_by_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    for name, data in small_models.sharded().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\nmodel: {path: model}\n")
    assert main(["lock", str(recipe)]) == 0
    lock = lock_of(recipe)
    assert (lock["hub"], lock["repo"], lock["commit"]) == ("path", "model", None)
    assert main(["plan", str(recipe), *LAPTOP, "--locked"]) == 0
    assert main(["lock", str(recipe), "--check"]) == 0
    (folder / "config.json").write_text(json.dumps(small_models.CONFIG | {"rope_theta": 5.0}))
    capsys.readouterr()
    assert main(["plan", str(recipe), *LAPTOP, "--locked"]) == 1
    assert "config.json has" in capsys.readouterr().err
    assert main(["lock", str(recipe), "--check"]) == 1
    moved = tmp_path / "elsewhere"  # the lock and the recipe go together
    moved.mkdir()
    assert main(["lock", str(recipe)]) == 0
    for file in (recipe, recipe.with_suffix(".lock"), folder):
        file.rename(moved / file.name)
    assert main(["plan", str(moved / "r.yaml"), *LAPTOP, "--locked"]) == 0


def test_only_a_recipe_file_can_be_locked(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lock", "owner/name"]) == 2
    assert "only a recipe file can be locked" in capsys.readouterr().err
    assert main(["up", "owner/name", "--locked"]) == 2
    assert hub.seen == []


def test_a_shipped_recipe_is_copied_to_be_locked(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    name = "qwen2.5-0.5b"
    for command in (["lock"], ["lock", "--check"], *([verb, "--locked"] for verb in ("up", "plan", "pull"))):
        assert main([*command, name]) == 2
        assert f"deploykit cp {name}" in capsys.readouterr().err
    assert not shipped.path(name).with_suffix(".lock").exists()
    assert hub.seen == []


def test_a_hub_that_does_not_answer_leaves_the_lock_as_it_was(
    hub: FakeHub, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["lock", str(recipe)]) == 0
    before = recipe.with_suffix(".lock").read_bytes()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    assert main(["lock", str(recipe)]) == 1
    assert main(["lock", str(recipe), "--check"]) == 1
    assert recipe.with_suffix(".lock").read_bytes() == before
    assert [p.name for p in recipe.parent.glob(".*")] == []


def test_a_locked_deployment_in_the_background(hub: FakeHub, tmp_path: Path) -> None:
    """The switch reaches the process that supervises it."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\nname: locked\nmodel: {id: owner/name}\nserver: {port: 0}\n")
    env = {**os.environ, "DEPLOYKIT_TESTING": "1", "DEPLOYKIT_RUNNER": "fake"}
    args = [sys.executable, "-m", "deploykit", "up", str(recipe), "-d", "--locked"]
    done = subprocess.run(args, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert "there is no lock of locked" in done.stderr
    assert main(["lock", str(recipe)]) == 0
    hub.move({})
    done = subprocess.run(args, capture_output=True, text=True, env=env, check=False)
    # The model is no real one: its tokenizer is refused after it has been fetched, at the commit of the lock.
    assert COMMIT[:12] in done.stdout + done.stderr
    assert (tmp_path / "cache" / "hf" / "owner--name" / "model" / COMMIT / "model.safetensors").is_file()
