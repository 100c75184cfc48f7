"""`vars`, `${vars.x}` and `${env.X}`: what a reference stands for, its type, and where a wrong one is pointed at."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from recipe_files import HEAD, errors, loaded, write

from deploykit.recipe import RecipeError, load_recipe, recipe_from_data
from deploykit.recipe.references import Malformed, Reference, parse_references


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "A_PORT": "8000",
        "A_TEXT": "hello",
        "A_NUMBER": "123",
        "AN_EMPTY": "",
        "A_FLAG": "false",
        "HF_TOKEN": "hf-very-secret",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    ("line", "key", "expected"),
    [
        # a reference that is the whole value keeps its type, in quotes too
        ("engine: {session_len: '${vars.ctx}'}", "engine.session_len", 8192),
        ("engine:\n  session_len: ${vars.ctx}", "engine.session_len", 8192),
        ("engine:\n  session_len: ${vars.word}", "engine.session_len", "auto"),
        ("engine:\n  cache: {ratio: '${vars.share}'}", "engine.cache.ratio", 0.5),
        ("engine:\n  cache: {prefix_caching: '${vars.flag}'}", "engine.cache.prefix_caching", False),
        ("server:\n  port: ${env.A_PORT}", "server.port", 8000),
        ("engine:\n  cache: {prefix_caching: '${env.A_FLAG}'}", "engine.cache.prefix_caching", False),
        ("server:\n  port: ${env.NOT_SET:-8001}", "server.port", 8001),
        ("server:\n  port: ${env.AN_EMPTY:-8001}", "server.port", 8001),
        ("server:\n  port: ${env.A_PORT:-8001}", "server.port", 8000),
        ("server:\n  port: ${env.A_PORT:?set a port}", "server.port", 8000),
        ("chat:\n  system: ${vars.nothing}", "chat.system", None),
        # where a text is asked for, what the environment holds is a text
        ("description: ${env.A_NUMBER}", "description", "123"),
        ("description: ${env.A_FLAG}", "description", "false"),
        ("description: ${env.AN_EMPTY}", "description", ""),
        ("description: ${env.NOT_SET:-}", "description", ""),
        ("description: ${env.NOT_SET:-12}", "description", "12"),
        ("description: ${vars.from_env}", "description", "123"),
        # pieces of a text
        ("description: ${vars.word} and ${env.A_TEXT}", "description", "auto and hello"),
        ("description: ctx ${vars.ctx}, ${vars.share}, ${vars.flag}", "description", "ctx 8192, 0.5, false"),
        ("description: ${vars.composed}!", "description", "auto/8192!"),
        ("description: a${env.AN_EMPTY}b", "description", "ab"),
        ("description: ${env.NOT_SET:-${env.A_TEXT}}", "description", "hello"),
        ("description: ${env.NOT_SET:-${vars.word}-${env.NOT_SET:-z}}", "description", "auto-z"),
        ("description: ${ env.A_TEXT }", "description", "hello"),
        ("chat: {defaults: {stop: ['${vars.word}', b]}}", "chat.defaults.stop", ["auto", "b"]),
        ("chat:\n  system: |\n    Hi ${vars.word}\n    $$x\n", "chat.system", "Hi auto\n$x\n"),
        # a `$` that begins nothing is a `$`
        ("description: 5 $ and $x", "description", "5 $ and $x"),
        ("description: $$5", "description", "$5"),
        ("description: $${vars.word}", "description", "${vars.word}"),
        ("description: $$$${x}", "description", "$${x}"),
    ],
)
def test_what_a_reference_stands_for(tmp_path: Path, line: str, key: str, expected: Any) -> None:
    variables = (
        "vars:\n  ctx: 8192\n  word: auto\n  share: 0.5\n  flag: false\n  nothing:\n  from_env: ${env.A_NUMBER}\n"
        "  composed: ${vars.word}/${vars.ctx}\n"
    )
    found: Any = loaded(tmp_path, f"{HEAD}{variables}{line}\n")
    for part in key.split("."):
        found = found[part]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("line", "code", "col", "length", "words"),
    [
        ("description: a ${vars.ctz}", "unset-variable", 16, 11, "did you mean `${vars.ctx}`?"),
        (
            "description: ${vars.zzz}",
            "unset-variable",
            14,
            11,
            "add it under `vars`, which has ctx, null, a, b",
        ),
        ("description: ${env.NOT_SET}", "unset-variable", 14, 14, "`${env.NOT_SET:-…}`"),
        ("description: ${env.A_TEXTT}", "unset-variable", 14, 14, "did you mean `${env.A_TEXT}`?"),
        ("description: ${env.NOT_SET:?give one}", "unset-variable", 14, 24, "is not set: give one"),
        ("description: ${env.AN_EMPTY:?give one}", "unset-variable", 14, 25, "is empty: give one"),
        ("description: ${a} ${A_TEXT}", "bad-reference", 14, 4, "write `${env.a}` or `${vars.a}`"),
        ("description: ${vars.}", "bad-reference", 14, 8, "write `${vars.NAME}` or `${env.NAME}`"),
        ("description: ${}", "bad-reference", 14, 3, "write `${vars.NAME}` or `${env.NAME}`"),
        ("description: x ${vars.ctx", "bad-reference", 16, 10, "close it with `}`"),
        ("description: ${env.9}", "bad-reference", 14, 8, "a name is letters, digits"),
        ("description: ${env.A-b}", "bad-reference", 14, 10, "a name is letters, digits"),
        ("description: ${vars.ctx:-4}", "bad-reference", 14, 14, "the default under `vars`"),
        ("description: ${env.A:+x}", "bad-reference", 14, 11, "`${env.NAME:?message}`"),
        ("description: ${env.A${vars.ctx}}", "bad-reference", 14, 18, "`${env.NAME:?message}`"),
        ("description: ${vars.a}", "reference-cycle", 0, 0, "write one of them out"),
        ("description: is ${vars.null}", "wrong-type", 17, 12, "let it stand alone"),
        ("name: ${vars.ctx}", "wrong-type", 7, 11, "put it in quotes"),
        ('"${vars.ctx}": 1', "bad-reference", 1, 13, "write the key out"),
        ("engine: {tp: ${vars.ctx}}", "yaml-syntax", 14, 1, 'in quotes: `"${vars.ctx}"`'),
        ("extends: ${vars.ctx}.yaml", "bad-reference", 10, 16, "write the path out"),
    ],
)
def test_a_wrong_one_is_pointed_at(
    tmp_path: Path, line: str, code: str, col: int, length: int, words: str
) -> None:
    cycle = "  a: ${vars.b}\n  b: x${vars.a}\n" if "cycle" in code or "zzz" in line else ""
    file = write(tmp_path, f'{HEAD}vars:\n  ctx: 8192\n  "null": ~\n{cycle}{line}\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    found = next(d for d in caught.value.diagnostics if d.code == code)
    if "cycle" in code:
        assert (found.line, found.col, found.length) == (7, 7, 9)
    else:
        assert (found.line, found.col, found.length) == (6 + cycle.count("\n"), col, length)
    assert words in f"{found.message} {found.help}"


def test_one_wrong_reference_is_one_error(tmp_path: Path) -> None:
    text = f"{HEAD}engine:\n  session_len: ${{env.NOT_SET}}\nserver:\n  port: x${{vars.y}}${{vars.z}}\n"
    assert errors(tmp_path, text) == [
        ("recipe.yaml", "unset-variable", 4, 16),
        ("recipe.yaml", "unset-variable", 6, 10),
        ("recipe.yaml", "unset-variable", 6, 19),
    ]


def test_a_wrong_value_points_at_the_reference_and_at_the_variable(tmp_path: Path) -> None:
    text = "--- recipe.yaml\nextends: base.yaml\nvars: {ctx: many}\n--- base.yaml\n"
    text += f"{HEAD}engine:\n  session_len: ${{vars.ctx}}\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    (found,) = caught.value.diagnostics
    assert (found.file, found.line, found.col) == (str(tmp_path / "base.yaml"), 4, 16)
    (other,) = found.related
    assert (other.message, other.file, other.line, other.col) == (
        "`vars.ctx` is set here",
        str(tmp_path / "recipe.yaml"),
        2,
        13,
    )


def test_a_wrong_value_of_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r'got the text "hello" from the environment variable A_TEXT'):
        load_recipe(write(tmp_path, f"{HEAD}server:\n  port: ${{env.A_TEXT}}\n"))


def test_secrets_of_the_environment_are_in_no_message(tmp_path: Path) -> None:
    text = (
        f"{HEAD}vars: {{t: '${{env.HF_TOKEN}}', api_key: sk-literal}}\nname: ${{vars.t}}\n"
        "server:\n  host: ${vars.api_key}\n  port: ${env.HF_TOKEN}\n  log_level: x${vars.t}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert len(caught.value.diagnostics) == 3
    assert "very-secret" not in str(caught.value)
    assert "sk-literal" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "col", "code"),
    [
        ("vars: [a]\n", 3, 7, "wrong-type"),
        ("vars: {a: [1]}\n", 3, 11, "wrong-type"),
        ("vars: {a: {b: 1}}\n", 3, 11, "wrong-type"),
        ("vars: {a.b: 1}\n", 3, 8, "invalid-value"),
        ("vars: {1: 1}\n", 3, 8, "key-not-text"),
        ("vars:\n  a: ${vars.a}\n", 4, 6, "reference-cycle"),
        ("vars:\n  a: ${env.NOT_SET}\n", 4, 6, "unset-variable"),
        ("vars:\n  a: ${\n", 4, 6, "bad-reference"),
        ("engine: {vars: {a: 1}}\n", 3, 10, "unknown-key"),
    ],
)
def test_malformed_variables(tmp_path: Path, text: str, line: int, col: int, code: str) -> None:
    assert errors(tmp_path, HEAD + text) == [("recipe.yaml", code, line, col)]


def test_text_that_grows_without_bounds_is_stopped(tmp_path: Path) -> None:
    names = "abcdefghij"
    text = HEAD + "vars:\n  a: " + "x" * 1000 + "\n"
    text += "".join(f"  {b}: {f'${{vars.{a}}}' * 20}\n" for a, b in itertools.pairwise(names))
    found = errors(tmp_path, text + "description: ${vars.j}\n")
    assert [code for _, code, _, _ in found] == ["too-large"]


@pytest.mark.timeout(60)  # what grows with the square of the size takes minutes
@pytest.mark.parametrize(
    "text",
    [
        "vars:\n" + "".join(f"  v{n}: ${{vars.v{n + 1}}}\n" for n in range(4000)) + "  v4000: 1\n",
        "server: {model_names: [" + "'${vars.a}', " * 9000 + "]}\n",
        "description: '" + "${" * 400_000 + "'\n",
        "description: '" + "${env.A:-" * 80_000 + "'\n",
        "description: '" + "${env.A:-${env.B:?}}" * 40_000 + "'\n",
        "chat:\n  system: |\n" + "    ${vars.x}\n" * 60_000,
        "x-a: &a ['${vars.a}', '${vars.b}']\nserver: {model_names: [" + "*a, " * 3000 + "]}\n",
        "profiles:\n" + "".join(f"  p{n}: {{engine: {{k{n}: 1}}}}\n" for n in range(32)) + "k: 1\n" * 3000,
    ],
    ids=range(8),
)
def test_hostile_references_are_refused(tmp_path: Path, text: str) -> None:
    found = errors(tmp_path, HEAD + text)
    assert 1 <= len(found) <= 101
    assert len(found) < 101 or found[-1][1] == "too-many-errors"


def test_values_from_outside_hold_no_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_SET__chat__system", "${vars.ctx} $$")
    found = loaded(tmp_path, f"{HEAD}vars: {{ctx: 1}}\n", "description=${env.HF_TOKEN} $$ ${")
    assert found["description"] == "${env.HF_TOKEN} $$ ${"
    assert found["chat"]["system"] == "${vars.ctx} $$"
    data = {"version": 1, "model": {"path": "/models/${x}"}}
    assert recipe_from_data(data, "x").recipe.model.path == "/models/${x}"


def test_a_path_is_relative_to_the_file_with_the_reference(tmp_path: Path) -> None:
    text = (
        "--- recipe.yaml\nextends: base/base.yaml\nvars: {folder: models}\n"
        "--- base/base.yaml\nversion: 1\nmodel:\n  path: ${vars.folder}/m.gguf\n"
    )
    assert loaded(tmp_path, text)["model"]["path"] == str(tmp_path / "base" / "models" / "m.gguf")


def test_parsing_takes_apart_and_names_what_is_wrong() -> None:
    assert parse_references("a$$b${vars.x}c") == ("a$b", Reference("vars", "x", "${vars.x}"), "c")
    nested = parse_references("${env.A:-x${env.B:?why} $${}")
    assert nested == (
        Reference(
            "env",
            "A",
            "${env.A:-x${env.B:?why} $${}",
            ("x", Reference("env", "B", "${env.B:?why}", None, "why"), " ${"),
        ),
    )
    with pytest.raises(Malformed) as caught:
        parse_references("ok ${vars.x} ${nope}")
    assert (caught.value.raw, caught.value.start) == ("${nope}", 13)
    with pytest.raises(Malformed, match="nested more than 8 deep"):
        parse_references("${env.A:-" * 9 + "}" * 9)
