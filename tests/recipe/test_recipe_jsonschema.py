"""The published schema: generated, committed, and of one mind with the loader."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploykit.recipe import RecipeError, load_recipe, recipe_from_bytes, recipe_from_data
from deploykit.recipe.foreign import FOREIGN_KEYS, FOREIGN_VALUES
from deploykit.recipe.jsonschema import file_schema, recipe_schema, recipe_schema_text
from deploykit.recipe.loader import parse
from deploykit.recipe.tree import lookup

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "schemas" / "recipe.v1.json"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def accepted(data: Any) -> tuple[bool, bool]:
    """By the loader, and by the published schema."""
    try:
        recipe_from_data(copy.deepcopy(data), "x")
        ours = True
    except RecipeError:
        ours = False
    return ours, jsonschema.Draft202012Validator(file_schema()).is_valid(data)


def test_the_committed_file_is_what_the_models_generate() -> None:
    assert COMMITTED.read_text() == recipe_schema_text()


def test_it_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())
    jsonschema.Draft202012Validator.check_schema(file_schema())


def test_the_command_writes_it(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    command = [sys.executable, "-m", "deploykit.recipe.jsonschema", "--write", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert target.read_text() == COMMITTED.read_text()


@pytest.mark.parametrize("file", RECIPES, ids=[file.name for file in RECIPES])
def test_every_shipped_recipe_is_valid_by_both_and_names_the_schema(file: Path) -> None:
    text = file.read_text()
    load_recipe(file)
    jsonschema.validate(parse(text, file.name, overlay=True).data, file_schema())
    assert text.startswith("# yaml-language-server: $schema=../schemas/recipe.v1.json\n")


@pytest.mark.parametrize("file", RECIPES, ids=[file.name for file in RECIPES])
def test_every_commented_default_is_the_default(file: Path) -> None:
    """`# key: value  # why` below the required part shows a key that could be uncommented as it stands."""
    lines = []
    for line in file.read_text().splitlines()[1:]:
        bare = line.lstrip(" ").removeprefix("# ")
        is_key = line.lstrip().startswith("# ") and bare.partition(":")[0].strip().isidentifier()
        lines.append(line.replace("# ", "", 1) if is_key and ("#" in bare or bare.endswith(":")) else line)
    uncommented = "\n".join(lines)
    assert recipe_from_bytes(uncommented.encode(), file).recipe == load_recipe(file).recipe
    if file.stem == "smollm2-135m":
        assert set(parse(uncommented, "x").data) >= {"engine", "chat", "server"}


def every_key(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{name}.{key}", value)
        for name, section in [("Recipe", schema), *schema["$defs"].items()]
        for key, value in section["properties"].items()
    ]


def test_every_key_is_described_and_every_section_closed() -> None:
    schema = recipe_schema()
    for name, key in every_key(schema):
        described = "description" in key or "$ref" in key
        assert described, name
    for name, section in schema["$defs"].items():
        assert section["additionalProperties"] is False, name
        assert section["description"], name


BASE: dict[str, Any] = {"version": 1, "model": {"id": "a/b"}}


def cases() -> list[tuple[str, Any, bool]]:
    def model(**keys: Any) -> dict[str, Any]:
        return {"version": 1, "model": keys}

    def limits(**keys: Any) -> dict[str, Any]:
        return {**BASE, "server": {"limits": keys}}

    def cache(**keys: Any) -> dict[str, Any]:
        return {**BASE, "engine": {"cache": keys}}

    return [
        ("base", BASE, True),
        ("no-version", {"model": {"id": "a/b"}}, False),
        ("version-2", {**BASE, "version": 2}, False),
        ("unknown", {**BASE, "x": 1}, False),
        ("path", model(path="m"), True),
        ("nulls", model(path="m", id=None, sources=None), True),
        ("two-origins", model(path="m", id="a/b"), False),
        ("no-origin", model(dtype="auto"), False),
        ("all-null", model(id=None), False),
        ("revision", model(id="a/b", revision="v1"), True),
        ("revision-of-path", model(path="m", revision="v1"), False),
        ("no-sources", model(sources=[]), False),
        ("sources", model(sources=[{"hf": "a/b"}, {"path": "m"}]), True),
        ("mixed-source", model(sources=[{"hf": "a/b", "path": "m"}]), False),
        ("traversal", model(id="../.."), False),
        ("size", limits(max_body="32MiB"), True),
        ("size-spaced", limits(max_body="1.5 GB"), True),
        ("size-number", limits(max_body=1024), True),
        ("size-bare-text", limits(max_body="1024"), True),
        ("size-wrong", limits(max_body="32M"), False),
        ("size-negative", limits(max_body=-1), False),
        ("size-float", limits(max_body=1.5), False),
        ("duration", limits(request_timeout="10m"), True),
        ("duration-number", limits(request_timeout=2.5), True),
        ("duration-wrong", limits(request_timeout="10 minutes"), False),
        ("duration-long", limits(request_timeout=86401), False),
        ("null-limit", limits(max_tokens=None), True),
        ("null-where-none", limits(max_n=None), False),
        *[
            (f"quant-{p}", cache(quant_policy=p), True)
            for p in ("none", "int8", "k8v4", "int4", "fp8", 0, 4, 8)
        ],
        *[(f"quant-{p}", cache(quant_policy=p), False) for p in ("off", 16, 2.5, None)],
        ("ratio", cache(ratio=0), False),
        ("block-len", cache(block_len=7), False),
        ("auto", {**BASE, "engine": {"session_len": "auto", "threads": 2}}, True),
        ("auto-zero", {**BASE, "engine": {"session_len": 0}}, False),
        ("secrets", {**BASE, "server": {"api_keys": [{"env": "A"}, {"file": "b"}]}}, True),
        ("secret-in-plain", {**BASE, "server": {"api_keys": ["sk"]}}, False),
        ("empty-stop", {**BASE, "chat": {"defaults": {"stop": [""]}}}, False),
        ("many-stops", {**BASE, "chat": {"defaults": {"stop": ["a"] * 17}}}, False),
    ]


@pytest.mark.parametrize(("data", "valid"), [c[1:] for c in cases()], ids=[c[0] for c in cases()])
def test_both_accept_and_refuse_the_same(data: Any, valid: bool) -> None:
    assert accepted(data) == (valid, valid)


def test_every_foreign_name_leads_to_a_key_that_exists_and_is_none_of_ours() -> None:
    for name, foreign in FOREIGN_KEYS.items():
        assert foreign.here is None or lookup(tuple(foreign.here.split("."))) is not None, name
        assert foreign.here is not None or foreign.note, name
    for key, values in FOREIGN_VALUES.items():
        node = lookup(tuple(key.split(".")))
        assert node is not None
        assert set(values.values()) <= set(node.choices), key


def test_the_committed_file_is_plain_json_with_a_dialect() -> None:
    data = json.loads(COMMITTED.read_text())
    assert data["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def file_is_valid(text: str) -> bool:
    return jsonschema.Draft202012Validator(file_schema()).is_valid(parse(text, "x", overlay=True).data)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("extends: a.yaml\n", True),
        ("extends: [a.yaml, b.yaml]\nmodel: {dtype: float16}\n", True),
        ("extends: 5\n", False),
        ("version: 1\nmodel: {dtype: float16}\n", False),
        ("extends: a.yaml\nx-note: {any: [thing]}\n", True),
        ("extends: a.yaml\nengine: {x-note: 1}\n", False),
        ("extends: a.yaml\nvars: {a: 1, b: text, c: null, d: 0.5, e: true}\n", True),
        ("extends: a.yaml\nvars: {a: [1]}\n", False),
        ("extends: a.yaml\nvars: {a.b: 1}\n", False),
        ("extends: a.yaml\nprofiles: {p: {engine: {tp: 2}, model: {dtype: float16}, vars: {a: 1}}}\n", True),
        ("extends: a.yaml\nprofiles: {p: {engin: {}}}\n", False),
        ("extends: a.yaml\nprofiles: {p: {extends: b.yaml}}\n", False),
        ("extends: a.yaml\nengine: {tp: '${vars.tp}', device: '${env.DEVICE:-cpu}'}\n", True),
        ("extends: a.yaml\nengine: {tp: 'two'}\n", False),
        ("extends: a.yaml\nengine: {device: 'tpu'}\n", False),
        (
            "extends: a.yaml\nserver: {limits: {max_body: '${vars.body}', request_timeout: '${vars.time}'}}\n",
            True,
        ),
        ("extends: a.yaml\nchat: {defaults: {stop: !append [a]}}\nengine: !reset {tp: 1}\n", True),
    ],
)
def test_editors_know_the_language_of_files(text: str, valid: bool) -> None:
    assert file_is_valid(text) == valid
