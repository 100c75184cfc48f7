"""The quick check says yes to what the models say yes to, and no to what they refuse."""

from __future__ import annotations

import ast
import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from deploykit.recipe import schema, schema_engine, schema_file
from deploykit.recipe.cross import conflicts
from deploykit.recipe.jsonschema import package_schema_text, recipe_schema
from deploykit.recipe.quick import KEYWORDS, accepts
from deploykit.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]

WORDS = {"description", "default", "examples", "title", "patternErrorMessage", "$schema", "$id", "$defs"}
CHECKED_ELSEWHERE = {"oneOf", "dependentRequired"}  # by `cross.conflicts`

# What the models check by code of their own, and where the quick check has the same.
VALIDATORS = {
    ("ModelSection", "_one_origin"),  # cross.conflicts
    ("CacheSection", "_null_is_absent"),  # `null` is one of the values
    ("CacheSection", "_lmdeploy_numbers"),  # the numbers are among the choices
    ("Recipe", "_whole_number"),  # a choice has a type
}


def by_models(data: Any) -> bool:
    try:
        Recipe.model_validate(data)
    except ValidationError:
        return False
    return True


def by_us(data: Any) -> bool:
    return accepts(data) and not any(c.path[0] == "model" for c in conflicts(data))


def test_the_file_of_the_package_is_what_the_models_generate() -> None:
    assert schema_file.FILE.read_text() == package_schema_text(), (
        "run `python -m deploykit.recipe.jsonschema --write schemas/recipe.v1.json`"
    )


def test_a_file_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in schema_file.SOURCES:
        (tmp_path / name).write_bytes(schema_file.FILE.with_name(name).read_bytes())
    copy = tmp_path / "schema.json"
    copy.write_bytes(schema_file.FILE.read_bytes())
    monkeypatch.setattr(schema_file, "FILE", copy)
    assert schema_file.is_current()
    (tmp_path / "schema.py").write_text("# another one\n")
    assert not schema_file.is_current()
    assert schema_file.recipe_schema.__wrapped__() == recipe_schema()
    copy.write_text("{")
    assert not schema_file.is_current()


def test_every_keyword_of_the_schema_is_looked_at_or_is_words() -> None:
    found: set[str] = set()

    def walk(node: Any, named: bool = False) -> None:
        if isinstance(node, list):
            for item in node:
                walk(item)
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if not named:
                found.add(key)
            if key in ("properties", "$defs") and not named:
                walk(value, named=True)
            elif key not in ("default", "examples", "const", "enum", *CHECKED_ELSEWHERE):
                walk(value)

    walk(recipe_schema())
    assert found - WORDS - CHECKED_ELSEWHERE <= KEYWORDS


def test_no_validator_of_the_models_is_unknown_to_the_quick_check() -> None:
    found = set()
    for module in (schema, schema_engine):
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text())):
            for method in node.body if isinstance(node, ast.ClassDef) else ():
                decorators = [ast.unparse(d) for d in getattr(method, "decorator_list", ())]
                if any("validator" in d for d in decorators):
                    assert isinstance(node, ast.ClassDef)
                    found.add((node.name, method.name))
    assert found == VALIDATORS


def sections() -> dict[str, type[BaseModel]]:
    return {
        name: model
        for name, model in vars(schema).items()
        if isinstance(model, type) and issubclass(model, BaseModel)
    }


KEYS = sorted({key for model in sections().values() for key in model.model_fields})
NUMBERS = [-1, 0, 1, 2, 7, 8, 16, 31, 32, 64, 100, 1024, 1025, 65535, 65536, 86400, 86401]
NUMBERS += [2**40, 2**40 + 1, 2**63 - 1]
TEXTS = (
    "|a|auto|none|int8|a/b|../..|x\n|a/b\n|8.0|8.0\n|32MiB|1025GiB|999999999999GiB|1.5 GB|10m|25h|24h|86401s|-1s|main|"
    "x==1|native|cuda|info|A_KEY|0|" + "f" * 64
).split("|")
VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        *NUMBERS,
        *TEXTS,
        0.0,
        0.5,
        1.0,
        1.5,
        2.0,
        -0.0,
        1e300,
        math.inf,
        -math.inf,
        math.nan,
        [],
        {},
    ]
)
ANY = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)
START: dict[str, Any] = {
    "version": 1,
    "model": {"sources": [{"hf": "a/b"}, {"path": "m"}, {"pypi": "x==1", "file": "f", "sha256": "0" * 64}]},
    "engine": {"session_len": 64, "cache": {"ratio": 0.5}},
    "chat": {"defaults": {"stop": ["a"]}, "fields": {"stop_words": ["b"]}},
    "server": {"limits": {"max_body": "1MiB"}, "api_keys": [{"env": "A"}, {"file": "f"}], "restart": {}},
}


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    for key, inner in (
        data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    ):
        found += places(inner, (*at, key))
    return found


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 999), st.none() | st.sampled_from(KEYS), VALUES | ANY),
        min_size=1,
        max_size=3,
    )
)
def test_both_say_the_same_of_changed_recipes(changes: list[tuple[int, str | None, Any]]) -> None:
    data = json.loads(json.dumps(START))
    for number, key, value in changes:
        at = places(data)[1:]
        path = at[number % len(at)] if at else ()
        parent = data
        for step in path[:-1]:
            parent = parent[step]
        if path and key is not None and isinstance(parent[path[-1]], dict):
            parent[path[-1]][key] = copy.deepcopy(value)
        elif path:
            parent[path[-1]] = copy.deepcopy(value)
    assert by_us(data) == by_models(data)


@pytest.mark.parametrize("name", [name for name in sections() if name.endswith("Section")])
def test_both_say_the_same_of_every_key(name: str) -> None:
    """Every value at every key, where the section is one of the recipe's own."""
    homes = {"ModelSection": ("model",), "EngineSection": ("engine",), "CacheSection": ("engine", "cache")}
    homes |= {"ChatSection": ("chat",), "ServerSection": ("server",), "LimitsSection": ("server", "limits")}
    homes |= {"RestartSection": ("server", "restart"), "ChatDefaultsSection": ("chat", "defaults")}
    homes |= {"RequiresSection": ("requires",), "ChatFieldsSection": ("chat", "fields")}
    for key in sections()[name].model_fields:
        for value in (
            None,
            True,
            *NUMBERS,
            *TEXTS,
            0.5,
            1.0,
            2.5,
            math.inf,
            math.nan,
            [],
            ["a"],
            [""],
            {},
            {"x": 1},
        ):
            data: dict[str, Any] = {"version": 1, "model": {"id": "a/b"}}
            inner = data
            for step in homes[name]:
                inner = inner.setdefault(step, {})
            inner[key] = value
            assert by_us(data) == by_models(data), (key, value)


def test_a_valid_recipe_is_checked_without_the_models() -> None:
    code = (
        "import sys; from deploykit.recipe import check_recipe; print(check_recipe(sys.argv[1], every_profile=True),"
        "*[m for m in ('pydantic', 'typer', 'rich', 'deploykit.recipe.schema') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(ROOT / "recipes" / "smollm2-135m.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["smollm2-135m"]
