"""Where a recipe's model may come from, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploykit.deployment.sources import ProgressText, describe_files, fetch_weights, refs_of
from deploykit.deployment.target import open_target
from deploykit.errors import ConfigError
from deploykit.hub import Fetched, FetchProgress, HfRef, ModelScopeRef, PathRef
from deploykit.recipe import recipe_from_data
from deploykit.recipe.schema import ModelSection

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(**section: object) -> ModelSection:
    return recipe_from_data({"version": 1, "model": section}, name="r").recipe.model


@pytest.fixture
def modelscope_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_USE_MODELSCOPE", "1")


SOURCES = [
    {"hf": "owner/name", "revision": "v1"},
    {"modelscope": "Owner/Name-MS", "file": "m.gguf"},
    {"path": "/models/x"},
    {"modelscope": "Other/Name", "revision": "v2"},
]
HF, MS, PATH, MS2 = (
    HfRef("owner/name", "v1"),
    ModelScopeRef("Owner/Name-MS", "master", "m.gguf"),
    PathRef(Path("/models/x")),
    ModelScopeRef("Other/Name", "v2"),
)


def test_the_recipes_order_with_an_id_for_each_hub() -> None:
    assert refs_of(model(sources=SOURCES)) == [HF, MS, PATH, MS2]


@pytest.mark.usefixtures("modelscope_first")
def test_modelscope_first_keeps_the_order_otherwise() -> None:
    assert refs_of(model(sources=SOURCES)) == [MS, MS2, HF, PATH]
    assert refs_of(model(path="/models/x")) == [PATH]


@pytest.mark.usefixtures("modelscope_first")
def test_a_plain_id_is_looked_for_there_first() -> None:
    assert refs_of(model(id="a/b")) == [ModelScopeRef("a/b", "master"), HfRef("a/b", "main")]
    assert refs_of(model(id="a/b", revision="v1")) == [ModelScopeRef("a/b", "v1"), HfRef("a/b", "v1")]
    assert refs_of(open_target("a/b").recipe.model)[0] == ModelScopeRef("a/b")


def test_one_file_of_a_hub_as_a_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    opened = open_target("owner/Name-GGUF/q4/Name-Q4_K_M.gguf")
    assert refs_of(opened.recipe.model) == [HfRef("owner/Name-GGUF", "main", "q4/Name-Q4_K_M.gguf")]
    assert opened.name == "name-q4_k_m"
    monkeypatch.setenv("DEPLOYKIT_USE_MODELSCOPE", "1")
    refs = refs_of(open_target("owner/name/m.gguf").recipe.model)
    assert refs == [ModelScopeRef("owner/name", "master", "m.gguf"), HfRef("owner/name", "main", "m.gguf")]
    (tmp_path / "models").mkdir()
    for target in ("models/llama/m.gguf", "./a/b/m.gguf", "a/../b/m.gguf", "/a/b/m.gguf", "a/b/m.bin"):
        with pytest.raises(ConfigError, match="there is no"):
            open_target(target)


def test_else_a_plain_id_is_hugging_faces() -> None:
    assert refs_of(model(id="a/b")) == [HfRef("a/b")]


def test_a_switch_that_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_USE_MODELSCOPE", "perhaps")
    with pytest.raises(ConfigError, match="DEPLOYKIT_USE_MODELSCOPE"):
        refs_of(model(id="a/b"))


def test_bin_files_belong_to_whole_models() -> None:
    assert [getattr(r, "allow_bin", None) for r in refs_of(model(sources=SOURCES), allow_bin=True)] == [
        True,
        False,
        None,
        True,
    ]


def test_the_commit_is_told() -> None:
    folder = Fetched(path=Path(f"/c/{COMMIT}"), source="hf a/b@main", revision=COMMIT)
    assert describe_files(folder) == "hf a/b@main, commit 0123456789ab"
    file = Fetched(path=Path(f"/c/{COMMIT}/m.gguf"), source="hf a/b@main m.gguf", revision=COMMIT)
    assert describe_files(file) == "m.gguf from hf a/b@main m.gguf, commit 0123456789ab"
    wheel = Fetched(path=Path("/c/m.gguf"), source="pypi a==1", revision="e" * 64)
    assert describe_files(wheel) == "m.gguf from pypi a==1"


def test_the_rate_is_of_what_arrived_now(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    text = ProgressText()
    assert text.of(FetchProgress("a/b", 1 << 30, 4 << 30)) == "a/b: 1.0 GiB of 4.0 GiB"  # from an earlier try
    now = 102.0
    assert text.of(FetchProgress("a/b", (1 << 30) + (200 << 20), 4 << 30)).endswith(", 100.0 MiB/s")
    assert text.of(FetchProgress("pip", 5, None)) == "pip: 5 B"


def test_what_is_removed_between_two_steps_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [False, True]
    monkeypatch.setattr("deploykit.deployment.sources.hold", lambda path, cache: answers.pop(0))
    (tmp_path / "config.json").write_text("{}")
    loaded = recipe_from_data({"version": 1, "model": {"path": str(tmp_path)}}, name="r")
    assert fetch_weights(loaded, cache=tmp_path / "cache").path == tmp_path
    assert answers == []
