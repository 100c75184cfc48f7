"""`extends`: what is merged, in which order, what `!append` and `!reset` change, and whose place an error has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from recipe_files import HEAD, errors, loaded, write

from deploykit.recipe import RecipeError, check_files, load_recipe

BASE = """\
--- base.yaml
version: 1
model: {id: a/b, dtype: float16}
engine:
  tp: 1
  cache: {ratio: 0.5, block_len: 32}
chat:
  defaults: {stop: [a, b], temperature: 0.5}
"""


def over(text: str) -> str:
    return f"--- recipe.yaml\nextends: base.yaml\n{text}{BASE}"


def test_sections_merge_key_by_key_and_everything_else_replaces(tmp_path: Path) -> None:
    text = "engine: {cache: {block_len: 64}}\nchat: {defaults: {stop: [c]}}\nmodel: {id: c/d}\n"
    assert loaded(tmp_path, over(text)) == {
        "version": 1,
        "model": {"id": "c/d", "dtype": "float16"},
        "engine": {"tp": 1, "cache": {"ratio": 0.5, "block_len": 64}},
        "chat": {"defaults": {"stop": ["c"], "temperature": 0.5}},
    }


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("chat: {defaults: {stop: !append [c]}}\n", "chat.defaults.stop", ["a", "b", "c"]),
        ("chat:\n  defaults:\n    stop: !append\n      - c\n", "chat.defaults.stop", ["a", "b", "c"]),
        ("server: {model_names: !append [m]}\n", "server.model_names", ["m"]),
        ("chat: {defaults: {stop: !reset [c]}}\n", "chat.defaults.stop", ["c"]),
        ("chat:\n  defaults:\n    stop: !reset\n", "chat.defaults", {"temperature": 0.5}),
        ("chat:\n  defaults: !reset\n", "chat", {}),
        ("chat:\n  defaults: !reset null\n", "chat", {}),
        ("engine:\n  cache: !reset {blocks: 8}\n", "engine.cache", {"blocks": 8}),
        ("engine: !reset\n", "engine", None),
        ("engine:\n  tp: !reset 2\n", "engine.tp", 2),
        ('model:\n  id: !reset "1/2"\n', "model.id", "1/2"),
        ("engine:\n  threads: !reset\n", "engine.tp", 1),  # nothing is below: nothing to take away
    ],
)
def test_tags_say_how_a_value_is_laid_over_another(
    tmp_path: Path, text: str, key: str, expected: Any
) -> None:
    found: Any = loaded(tmp_path, over(text))
    for part in key.split("."):
        found = found.get(part)
    assert found == expected


def test_of_several_the_last_is_on_top_and_a_file_that_two_extend_is_read_for_both(tmp_path: Path) -> None:
    text = (
        "--- recipe.yaml\nextends: [one.yaml, two.yaml]\n"
        "--- one.yaml\nextends: root.yaml\nengine: {tp: 2, threads: 2}\n"
        "--- two.yaml\nextends: root.yaml\nengine: {threads: 3}\n"
        f"--- root.yaml\n{HEAD}engine: {{tp: 1, session_len: 64}}\n"
    )
    assert loaded(tmp_path, text)["engine"] == {"tp": 1, "threads": 3, "session_len": 64}


def test_paths_are_relative_to_the_file_that_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "--- recipes/recipe.yaml\nextends: ../shared/base.yaml\nchat: {template: own.jinja}\n"
        "server: {api_keys: !append [{file: own.key}]}\n"
        "--- shared/base.yaml\nextends: deep/deeper.yaml\nmodel: {facts: facts.json}\n"
        "--- shared/deep/deeper.yaml\nversion: 1\nmodel: {path: m.gguf, facts: x}\nserver: {api_keys: [{file: k}]}\n"
    )
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/recipe.yaml").recipe
    assert recipe.model.path == str(tmp_path / "shared" / "deep" / "m.gguf")
    assert recipe.model.facts == str(tmp_path / "shared" / "facts.json")
    assert recipe.chat.template == str(tmp_path / "recipes" / "own.jinja")
    assert [key.model_dump()["file"] for key in recipe.server.api_keys] == [
        str(tmp_path / "shared" / "deep" / "k"),
        str(tmp_path / "recipes" / "own.key"),
    ]


def test_a_link_is_followed_for_circles_and_its_own_folder_is_what_paths_are_relative_to(
    tmp_path: Path,
) -> None:
    write(tmp_path, f"--- far/base.yaml\n{HEAD}chat: {{template: t.jinja}}\n")
    (tmp_path / "base.yaml").symlink_to(tmp_path / "far" / "base.yaml")
    recipe = write(tmp_path, "--- recipe.yaml\nextends: base.yaml\n")
    assert load_recipe(recipe).recipe.chat.template == str(tmp_path / "t.jinja")
    (tmp_path / "again.yaml").symlink_to(recipe)
    recipe.write_text("extends: again.yaml\n" + HEAD)
    assert [d.code for d in check_files([recipe])] == ["extends-cycle"]


def test_errors_of_all_files_come_in_one_pass_each_at_its_own_line(tmp_path: Path) -> None:
    text = (
        "--- recipe.yaml\nextends: [base.yaml, other.yaml]\nname: Bad Name\nserver:\n  prt: 1\n"
        "--- base.yaml\nextends: deep.yaml\nengine:\n  tp: 0\n"
        "--- deep.yaml\nversion: 1\n\nmodel: {id: a/b}\nchat: {sytem: x}\n"
        "--- other.yaml\nengine:\n  threads: many\n  threads: 2\n"
    )
    assert errors(tmp_path, text, "engine.sesion_len=1") == [
        ("recipe.yaml", "invalid-value", 2, 7),
        ("recipe.yaml", "unknown-key", 4, 3),
        ("base.yaml", "out-of-range", 3, 7),
        ("deep.yaml", "unknown-key", 4, 8),
        ("other.yaml", "invalid-value", 2, 12),
        ("other.yaml", "duplicate-key", 3, 3),
        ("--set", "unknown-key", 0, 8),
    ]


def test_a_contradiction_points_into_both_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, over("model: {path: m}\n")))
    (found,) = caught.value.diagnostics
    assert (found.code, found.file, found.line, found.col) == (
        "conflict",
        str(tmp_path / "recipe.yaml"),
        2,
        9,
    )
    assert found.help == "take the one below away: `id: !reset`; or keep only that"
    (other,) = found.related
    assert (other.file, other.line, other.col) == (str(tmp_path / "base.yaml"), 2, 9)
    assert loaded(tmp_path, over("model: {path: /m, id: !reset }\n"))["model"] == {
        "path": "/m",
        "dtype": "float16",
    }


def test_what_a_file_lacks_that_could_not_be_read_is_no_error(tmp_path: Path) -> None:
    text = '--- recipe.yaml\nextends: base.yaml\nengine: {session_len: "${vars.x}", tp: 0}\n'
    assert errors(tmp_path, text) == [
        ("recipe.yaml", "missing-file", 1, 10),
        ("recipe.yaml", "out-of-range", 2, 40),
    ]


def chain(length: int) -> str:
    """A recipe that extends a file that extends a file …, this many in all."""
    files = [f"--- r{n}.yaml\nextends: r{n + 1}.yaml\n" for n in range(length - 1)]
    return "".join(files) + f"--- r{length - 1}.yaml\n{HEAD}"


def test_nine_files_in_a_row_are_read_and_a_tenth_is_refused_where_it_is_named(tmp_path: Path) -> None:
    assert errors(tmp_path, chain(9)) == []
    assert errors(tmp_path, chain(10)) == [("r8.yaml", "too-deep", 1, 10)]


def test_many_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    fan = "extends: [{}]\n"
    text = "".join(
        f"--- f{depth}.yaml\n" + fan.format(", ".join([f"f{depth + 1}.yaml"] * 10)) for depth in range(7)
    )
    found = errors(tmp_path, text + f"--- f7.yaml\n{HEAD}")
    assert {code for _, code, _, _ in found} == {"too-large"}
    assert len(found) < 100


def test_values_are_counted_over_all_files(tmp_path: Path) -> None:
    half = "x-a: [" + "1, " * 6000 + "]\n"
    text = f"--- recipe.yaml\nextends: base.yaml\n{HEAD}{half}--- base.yaml\n{half}"
    assert errors(tmp_path, text) == [("recipe.yaml", "too-large", 1, 10)]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    text = f"--- recipe.yaml\nextends: pipe.yaml\n{HEAD}"
    assert errors(tmp_path, text) == [("recipe.yaml", "not-a-file", 1, 10)]


def test_extra_keys_hold_anchors_and_are_not_read(tmp_path: Path) -> None:
    text = f"x-note: &d {{temperature: 0.5}}\nx-: ${{env.NOPE}}\n{HEAD}chat: {{defaults: *d}}\n"
    assert loaded(tmp_path, text)["chat"] == {"defaults": {"temperature": 0.5}}
    text = f"{HEAD}engine: {{x-note: 1}}\n"
    assert errors(tmp_path, text) == [("recipe.yaml", "unknown-key", 3, 10)]


def test_tags_of_files_are_not_of_other_documents() -> None:
    from deploykit.recipe.loader import parse

    assert [p.code for p in parse("gpus: !append [a]", "machine.yaml").problems] == ["yaml-tag"]
