"""How errors look, and that nothing in a recipe can act on the terminal or leak a key."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from deploykit.recipe import RecipeError, load_recipe
from deploykit.recipe.render import render_plain, render_rich, to_json


def error_of(tmp_path: Path, text: str, *sets: str) -> RecipeError:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, sets)
    return caught.value


def test_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\nmodel: {id: a/b}\nengine:\n  ratio: 0.8\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", ["server.port=http"])
    assert str(caught.value) == (
        "error[unknown-key]: unknown key `engine.ratio`\n"
        " --> r.yaml:4:3\n"
        "4 |   ratio: 0.8\n"
        "  |   ^^^^^\n"
        "  = help: `ratio` belongs under `engine.cache`: move it to `engine.cache.ratio`\n"
        "\n"
        'error[wrong-type]: `server.port` must be a whole number from 0 to 65535, got the text "http"\n'
        " --> --set server.port=http\n"
        "                       ^^^^\n"
        "\n"
        "1 error in r.yaml, 1 in --set"
    )


def test_the_caret_stands_under_wide_characters_and_tabs(tmp_path: Path) -> None:
    shown = str(
        error_of(tmp_path, "version: 1\nmodel: {id: a/b}\nchat: {system: 日本,\tsytem: x}\n")
    ).splitlines()
    line = next(n for n, text in enumerate(shown) if text.startswith("3 |"))
    assert shown[line].index("sytem") + 2 == shown[line + 1].index("^")  # two characters of two cells each


def test_a_long_line_is_cut_around_the_caret(tmp_path: Path) -> None:
    pad = "x" * 5000
    error = error_of(tmp_path, f"version: 1\nmodel: {{id: a/b}}\nchat: {{system: {pad}, sytem: {pad}}}\n")
    lines = str(error).splitlines()
    assert max(map(len, lines)) < 160
    shown = next(text for text in lines if text.startswith("3 |"))
    assert "sytem" in shown
    assert shown.count("…") == 2


HOSTILE = "\u202e\u200b\u2066"


def test_what_a_terminal_would_act_on_is_escaped(tmp_path: Path) -> None:
    error = error_of(
        tmp_path,
        f'version: 1\nname: "\\e[31mred\\a"\nmodel: {{id: a/b}}\n"{HOSTILE}k": 1\n'
        f'engine: {{device: "{HOSTILE}\\e]0;title\\a\\x9b1m", tp: "\\r\\b"}}\n',
        f"server.port=\x1b[2J{HOSTILE}",
        f"\x1b[2J{HOSTILE}=1",
    )
    for text in (render_plain(error.diagnostics), render_rich(error.diagnostics).plain, error.what):
        assert not [c for c in text if not (c.isprintable() or c == "\n")]
    assert "\\x1b" in str(error)


def test_a_file_name_is_escaped_too(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "\x1b[31m\udcff.yaml")
    assert "\\x1b[31m\\udcff.yaml" in str(caught.value)
    str(caught.value).encode()


def test_rich_and_plain_say_the_same(tmp_path: Path) -> None:
    from rich.console import Console

    error = error_of(tmp_path, "version: 1\nmodel: [bold]x[/]\nname: '[red]'\n")
    out = io.StringIO()
    Console(file=out, force_terminal=True, soft_wrap=True, color_system="standard").print(
        render_rich(error.diagnostics)
    )
    assert "\x1b[" in out.getvalue()
    assert render_rich(error.diagnostics).plain == render_plain(error.diagnostics)


@pytest.mark.parametrize(
    "text",
    [
        "api_keys: [sk-s3cr3t]",
        "api_keys: [{env: sk-s3cr3t}]",
        "api_keys: [{env: A, env: sk-s3cr3t}]",
        "api_keys: sk-s3cr3t",
        "api_keys: [{key: sk-s3cr3t}]",
        "api_key: sk-s3cr3t",
        "password: 'sk-s3cr3t'",
        "api_keys: [sk-s3cr3t",
        "api_keys: ['sk-s3cr3t', {port: 1}], prot: 2",
    ],
)
def test_a_key_written_into_a_recipe_is_not_shown(tmp_path: Path, text: str) -> None:
    error = error_of(tmp_path, f"version: 1\nmodel: {{id: a/b}}\nserver: {{{text}}}\n")
    assert "s3cr3t" not in str(error)
    assert "s3cr3t" not in json.dumps([to_json(d) for d in error.diagnostics])
    assert "s3cr3t" not in repr(error.diagnostics)


@pytest.mark.parametrize(
    "text", ["server.api_keys=[sk-s3cr3t]", "server.api_key=sk-s3cr3t", "server.api_keys=sk-s3cr3t"]
)
def test_a_key_given_with_set_is_not_shown(tmp_path: Path, text: str) -> None:
    error = error_of(tmp_path, "version: 1\nmodel: {id: a/b}\n", text)
    assert "s3cr3t" not in str(error) + repr(error.diagnostics) + str(error.where)


def test_the_name_of_a_variable_is_shown(tmp_path: Path) -> None:
    text = "version: 1\nmodel: {id: a/b}\nserver: {api_keys: [{env: MY_KEY, x: 1}]}\n"
    assert "{env: MY_KEY, x: 1}" in str(error_of(tmp_path, text))
