"""`DEPLOYKIT_SET__a__b`: a key of the recipe by a variable of the environment, between profiles and `--set`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recipe_files import HEAD, loaded, write

from deploykit.recipe import RecipeError, load_recipe, recipe_from_data


def engine(tmp_path: Path, *sets: str, profiles: tuple[str, ...] = ()) -> dict[str, Any]:
    text = f"{HEAD}engine: {{threads: 1}}\nprofiles: {{p: {{engine: {{threads: 2}}}}}}\n"
    found: dict[str, Any] = loaded(tmp_path, text, *sets, profiles=profiles)["engine"]
    return found


def test_it_stands_between_profiles_and_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine(tmp_path, profiles=("p",)) == {"threads": 2}
    monkeypatch.setenv("DEPLOYKIT_SET__engine__threads", "3")
    assert engine(tmp_path, profiles=("p",)) == {"threads": 3}
    assert engine(tmp_path, "engine.threads=4", profiles=("p",)) == {"threads": 4}


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("DEPLOYKIT_SET__engine__session_len", "4096", "engine.session_len", 4096),
        ("DEPLOYKIT_SET__ENGINE__SESSION_LEN", "auto", "engine.session_len", "auto"),
        ("deploykit_set__Engine__Cache__Ratio", ".5", "engine.cache.ratio", 0.5),
        ("DEPLOYKIT_SET__server__limits__max_body", "1MiB", "server.limits.max_body", 1 << 20),
        ("DEPLOYKIT_SET__name", "123", "name", "123"),  # a text, since the key is one
        ("DEPLOYKIT_SET__chat__defaults__stop", "[a, b]", "chat.defaults.stop", ["a", "b"]),
        ("DEPLOYKIT_SET__chat__defaults__stop", "!append [b]", "chat.defaults.stop", ["x", "b"]),
        ("DEPLOYKIT_SET__chat__defaults__stop", "!reset", "chat.defaults.stop", []),
        ("DEPLOYKIT_SET__chat__defaults__stop__0", "y", "chat.defaults.stop", ["y"]),
        ("DEPLOYKIT_SET__VARS__CTX", "64", "engine.threads", 64),
        ("DEPLOYKIT_SET__chat__system", "", "chat.system", None),
    ],
)
def test_names_in_any_case_and_values_by_the_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str, expected: Any
) -> None:
    monkeypatch.setenv(name, value)
    text = f"{HEAD}vars: {{ctx: 1}}\nengine:\n  threads: ${{vars.ctx}}\nchat: {{defaults: {{stop: [x]}}}}\n"
    found: Any = load_recipe(write(tmp_path, text)).recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "value", "code", "col", "words"),
    [
        ("DEPLOYKIT_SET__engine__sesion_len", "1", "unknown-key", 24, "did you mean `session_len`?"),
        ("DEPLOYKIT_SET__ENGINE__SESION_LEN", "1", "unknown-key", 24, "did you mean `session_len`?"),
        ("DEPLOYKIT_SET__engin__tp", "1", "unknown-key", 16, "did you mean `engine`?"),
        ("DEPLOYKIT_SET__engine__tp", "two", "wrong-type", 27, "must be a whole number"),
        ("DEPLOYKIT_SET__engine__tp", "[", "yaml-syntax", 27, "a value is expected here"),
        ("DEPLOYKIT_SET__engine__num_ctx", "1", "unknown-key", 24, "Ollama's name"),
        ("DEPLOYKIT_SET__", "1", "bad-set", 1, "names no key"),
        ("DEPLOYKIT_SET__engine____tp", "1", "bad-set", 1, "names no key"),
        ("DEPLOYKIT_SET__name__x", "1", "bad-set", 22, "is the text"),
        ("DEPLOYKIT_SET__extends", "a.yaml", "bad-set", 16, "in a recipe's file alone"),
        ("DEPLOYKIT_SET__profiles__p", "{}", "bad-set", 16, "--profile NAME"),
        ("DEPLOYKIT_SET__chat__defaults__stop__7", "a", "bad-set", 38, "has 1 entries"),
        ("DEPLOYKIT_SET__engine__tp", "!append [1]", "conflict", 24, "adds to a list"),
    ],
)
def test_a_mistake_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str, col: int, words: str
) -> None:
    monkeypatch.setenv(name, value)
    text = f"{HEAD}name: some\nengine: {{tp: 1}}\nchat: {{defaults: {{stop: [x]}}}}\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    (found,) = caught.value.diagnostics
    assert (found.code, found.line, found.col) == (code, None, col)
    assert found.where == f"environment {name}={value}"
    assert words in f"{found.message} {found.help}"


def test_two_that_differ_in_case_alone_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_SET__engine__tp", "1")
    monkeypatch.setenv("DEPLOYKIT_SET__ENGINE__TP", "2")
    with pytest.raises(RecipeError, match="their names differ in case alone"):
        load_recipe(write(tmp_path, HEAD))


def test_secrets_are_starred_and_implied_recipes_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_SET__server__api_keys", "[sk-very-secret]")
    with pytest.raises(RecipeError) as caught:
        recipe_from_data({"version": 1, "model": {"id": "a/b"}}, "x")
    assert "very-secret" not in str(caught.value)
    monkeypatch.setenv("DEPLOYKIT_SET__server__api_keys", "[{env: KEY}]")
    assert recipe_from_data({"version": 1, "model": {"id": "a/b"}}, "x").recipe.server.api_keys
