"""What a valid recipe becomes: its name, its defaults, and the paths in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploykit.errors import EXIT_USAGE, ConfigError
from deploykit.recipe import RecipeError, load_recipe, recipe_from_data

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_shipped_recipe_says_where_its_model_is() -> None:
    loaded = load_recipe(ROOT / "recipes" / "smollm2-135m.yaml")
    assert loaded.name == "smollm2-135m"
    sources = loaded.recipe.model.sources
    assert sources is not None
    assert [type(source).__name__ for source in sources] == ["PypiSource", "HfSource"]


def test_paths_are_relative_to_the_recipe_and_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "version: 1\nmodel: {sources: [{hf: a/b}, {path: ../models/m.gguf}, {path: /abs}]}\n"
        "chat: {template: chat.jinja}\nserver: {api_keys: [{file: keys/one}, {env: KEY}]}\n"
    )
    write(tmp_path / "recipes" / "r.yaml", text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/r.yaml").recipe
    assert recipe.model_dump()["model"]["sources"][1]["path"] == str(tmp_path / "models" / "m.gguf")
    assert recipe.model_dump()["model"]["sources"][2]["path"] == "/abs"
    assert recipe.chat.template == str(tmp_path / "recipes" / "chat.jinja")
    assert recipe.model_dump()["server"]["api_keys"] == [
        {"file": str(tmp_path / "recipes" / "keys" / "one")},
        {"env": "KEY"},
    ]


def test_a_path_from_the_command_line_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "recipes" / "r.yaml", "version: 1\nmodel: {path: m}\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe(file).recipe.model.path == str(tmp_path / "recipes" / "m")
    assert load_recipe(file, ["model.path=m"]).recipe.model.path == str(tmp_path / "m")
    assert recipe_from_data({"version": 1, "model": {"path": "m"}}, "m").recipe.model.path == str(
        tmp_path / "m"
    )


def test_home_is_expanded_and_an_unknown_user_is_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path / "r.yaml", "version: 1\nmodel: {path: ~/m}\n")
    assert load_recipe(file).recipe.model.path == str(tmp_path / "m")
    file = write(tmp_path / "r.yaml", "version: 1\nmodel: {path: ~nobody-at-all/m}\n")
    assert load_recipe(file).recipe.model.path == str(tmp_path / "~nobody-at-all" / "m")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("smollm2.yaml", "smollm2"),
        ("SmolLM2 135M.yml", "smollm2-135m"),
        ("a.deploykit.yaml", "a"),
        ("no-extension", "no-extension"),
        ("日本.yaml", "recipe"),
    ],
)
def test_the_name_comes_from_the_file(tmp_path: Path, file: str, name: str) -> None:
    assert load_recipe(write(tmp_path / file, "version: 1\nmodel: {id: a/b}\n")).name == name
    assert load_recipe(write(tmp_path / file, "version: 1\nname: own\nmodel: {id: a/b}\n")).name == "own"


def test_data_of_the_caller_is_left_alone() -> None:
    data = {"version": 1, "model": {"id": "a/b"}}
    assert recipe_from_data(data, "x", ["model.dtype=float32"]).recipe.model.dtype == "float32"
    assert data == {"version": 1, "model": {"id": "a/b"}}


def test_every_unreadable_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "recipe.yaml", "")
    codes = {}
    for name in ("recipes.yaml", "folder", "a\0b", "x" * 300, "none/none.yaml"):
        with pytest.raises(RecipeError) as caught:
            load_recipe(tmp_path / name)
        (only,) = caught.value.diagnostics
        codes[name[:20]] = only.code
        if name == "recipes.yaml":
            assert only.help == f"did you mean `{tmp_path / 'recipe.yaml'}`?"
    assert set(codes.values()) == {"missing-file", "not-a-file", "unreadable-file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    file = write(tmp_path / "r.yaml", "version: 1\n")
    file.chmod(0)
    with pytest.raises(RecipeError, match="no permission"):
        load_recipe(file)


def test_a_recipe_error_is_a_usage_error_with_all_four_parts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path / "r.yaml", "version: 1\nmodel: {id: a/b}\nengin: {}\n"))
    error = caught.value
    assert error.exit_code == EXIT_USAGE
    assert error.what == f"1 error in {tmp_path / 'r.yaml'}"
    assert error.where == f"{tmp_path / 'r.yaml'}:3:1"
    assert (error.why, error.fix) == ("unknown key `engin`", "did you mean `engine`?")


def test_a_file_that_changes_is_read_anew_and_one_that_does_not_is_the_same(tmp_path: Path) -> None:
    """What is known of a text is shared by everything that reads it, and nobody's changes are."""
    base = write(
        tmp_path / "base.yaml", "version: 1\nengine: {max_batch_size: 4}\nprofiles: {a: {engine: {tp: 1}}}\n"
    )
    path = write(tmp_path / "r.yaml", "extends: base.yaml\nmodel: {id: a/b}\n")
    first = load_recipe(path, ["engine.max_batch_size=9"], ["a"])
    second = load_recipe(path)
    assert (first.recipe.engine.max_batch_size, second.recipe.engine.max_batch_size) == (9, 4)
    assert first.all_profiles == second.all_profiles == ("a",)
    assert "tp" not in second.merged.data["engine"]
    write(base, "version: 1\nengine: {max_batch_size: 5}\n")
    third = load_recipe(path)
    assert (third.recipe.engine.max_batch_size, third.all_profiles) == (5, ())
