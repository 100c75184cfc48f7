"""Profiles: laid over the recipe in the order they are asked for, and checked whether or not they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_files import HEAD, errors, loaded, write

from deploykit.cli.app import main
from deploykit.recipe import RecipeError, check_files, check_recipe, load_recipe
from deploykit.recipe.fix import fix_file

TEXT = f"""\
--- recipe.yaml
extends: base.yaml
engine: {{tp: 2}}
profiles:
  small: {{engine: {{session_len: 1024}}}}
  long: {{vars: {{ctx: 32768}}}}
  stop: {{chat: {{defaults: {{stop: !append [c]}}}}}}
--- base.yaml
{HEAD}vars: {{ctx: 8192}}
engine:
  tp: 1
  session_len: ${{vars.ctx}}
chat: {{defaults: {{stop: [a]}}}}
profiles:
  small: {{engine: {{session_len: 512, tp: 4}}, chat: {{defaults: {{stop: !append [b]}}}}}}
"""


def test_without_one_a_recipe_is_as_it_stands(tmp_path: Path) -> None:
    assert loaded(tmp_path, TEXT)["engine"] == {"tp": 2, "session_len": 8192}
    found = load_recipe(tmp_path / "recipe.yaml")
    assert (found.profiles, found.all_profiles) == ((), ("small", "long", "stop"))


def test_a_profile_of_a_base_comes_before_the_one_of_the_same_name_and_after_all_files(
    tmp_path: Path,
) -> None:
    found = loaded(tmp_path, TEXT, profiles=("small",))
    assert found["engine"] == {"tp": 4, "session_len": 1024}
    assert found["chat"]["defaults"]["stop"] == ["a", "b"]


def test_profiles_change_variables_and_sets_change_them_again(tmp_path: Path) -> None:
    assert loaded(tmp_path, TEXT, profiles=("long",))["engine"]["session_len"] == 32768
    assert loaded(tmp_path, TEXT, "vars.ctx=64", profiles=("long",))["engine"]["session_len"] == 64


def test_the_order_of_the_command_line_counts(tmp_path: Path) -> None:
    for order, expected in ((("small", "stop"), ["a", "b", "c"]), (("stop", "small"), ["a", "c", "b"])):
        assert loaded(tmp_path, TEXT, profiles=order)["chat"]["defaults"]["stop"] == expected
    assert load_recipe(tmp_path / "recipe.yaml", (), ("stop", "small")).profiles == ("stop", "small")


def test_a_profile_can_be_taken_away(tmp_path: Path) -> None:
    text = TEXT.replace(
        "  small: {engine: {session_len: 1024}}", "  small: !reset {engine: {session_len: 1024}}"
    )
    assert loaded(tmp_path, text, profiles=("small",))["engine"] == {"tp": 2, "session_len": 1024}
    text = TEXT.replace("  small: {engine: {session_len: 1024}}", "  small: !reset")
    assert errors(tmp_path, text, profiles=("small",)) == [("--profile", "unknown-profile", 0, 1)]


def test_an_unknown_one_is_told_the_nearest_and_all(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, TEXT), (), ("smal", "long"))
    (found,) = caught.value.diagnostics
    assert found.where == "--profile smal"
    assert found.help == "did you mean `small`? this recipe's profiles are: small, long, stop"
    with pytest.raises(RecipeError, match="this recipe has no profiles"):
        load_recipe(write(tmp_path, HEAD), (), ("smal",))


WRONG = f"""\
{HEAD}engine: {{max_batch_size: 256}}
profiles:
  a: {{engine: {{max_prefill_tokens: 128}}}}
  b: {{engin: {{}}}}
  c: {{server: {{port: "${{env.NO_SUCH_VARIABLE}}"}}}}
"""


def test_profiles_that_nobody_asked_for_are_checked_by_themselves(tmp_path: Path) -> None:
    file = write(tmp_path, WRONG)
    found = [(d.code, d.line, d.col) for d in check_files([file], every_profile=True)]
    assert found == [("conflict", 5, 16), ("unknown-key", 6, 7)]
    load_recipe(file)  # but they keep nobody from using the recipe without them
    assert errors(tmp_path, WRONG, profiles=("a",)) == [("recipe.yaml", "conflict", 5, 16)]


def test_variables_of_a_profile_may_be_unset_until_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = WRONG.replace("max_prefill_tokens: 128", "max_prefill_tokens: 512").replace("engin:", "engine:")
    file = write(tmp_path, text)
    assert check_recipe(file, every_profile=True) == "recipe"
    assert errors(tmp_path, text, profiles=("c",)) == [("recipe.yaml", "unset-variable", 7, 23)]
    monkeypatch.setenv("NO_SUCH_VARIABLE", "x")
    assert [d.code for d in check_files([file], every_profile=True)] == ["wrong-type"]


@pytest.mark.parametrize(
    ("text", "line", "col", "code"),
    [
        ("profiles: [a]\n", 3, 11, "wrong-type"),
        ("profiles:\n", 3, 1, "wrong-type"),
        ("profiles: {a: 1}\n", 3, 15, "wrong-type"),
        ("profiles:\n  a:\n", 4, 3, "wrong-type"),
        ("profiles: {a b: {}}\n", 3, 12, "invalid-value"),
        ("profiles: {a: {profiles: {}}}\n", 3, 16, "unknown-key"),
        ("profiles: {a: {extends: b.yaml}}\n", 3, 16, "unknown-key"),
        ("engine: {profiles: {}}\n", 3, 10, "unknown-key"),
    ],
)
def test_malformed_profiles(tmp_path: Path, text: str, line: int, col: int, code: str) -> None:
    assert errors(tmp_path, HEAD + text) == [("recipe.yaml", code, line, col)]


def test_what_a_recipe_lacks_is_told_at_its_top(tmp_path: Path) -> None:
    text = "name: x\nprofiles:\n  a: {model: {id: a/b}}\n"
    assert errors(tmp_path, text, profiles=("a",)) == [("recipe.yaml", "missing-key", 1, 1)]


def test_commands_take_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(write(tmp_path, TEXT))
    assert main(["validate", file, "--profile", "small", "--profile", "long"]) == 0
    assert capsys.readouterr().out == f"ok {file} (recipe)\n"
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        for command in ("validate", "config", "plan", "pull", "up", "chat", "doctor", "bench"):
            more = ["hello"] if command == "chat" else ["--startup"] if command == "bench" else []
            assert main([command, file, *more, "--profile", "smal"]) == 2, command
            shown = "".join(capsys.readouterr())
            assert "did you mean `small`?" in shown, command


def test_a_recipe_has_a_limit_of_profiles(tmp_path: Path) -> None:
    text = HEAD + "profiles:\n" + "".join(f"  p{n}: {{}}\n" for n in range(33))
    assert errors(tmp_path, text) == [("recipe.yaml", "too-large", 36, 3)]


def test_a_fix_renames_in_profiles_and_leaves_other_files_alone(tmp_path: Path) -> None:
    text = (
        "--- recipe.yaml\nextends: base.yaml\nprofiles:\n  a: {engin: {tp: 2}}  # kept\n"
        f"--- base.yaml\n{HEAD}chatt: {{}}\n"
    )
    file = write(tmp_path, text)
    fixed = fix_file(file)
    assert fixed is not None
    assert fixed.after.decode() == "extends: base.yaml\nprofiles:\n  a: {engine: {tp: 2}}  # kept\n"
    base = fix_file(tmp_path / "base.yaml")
    assert base is not None
    assert b"\nchat: {}\n" in base.after
