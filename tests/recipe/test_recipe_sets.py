"""`--set`: what it can say, how values are read, and errors that point into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploykit.recipe import RecipeError, load_recipe, recipe_from_data

BASE: dict[str, Any] = {
    "version": 1,
    "model": {"sources": [{"hf": "a/b"}, {"path": "m"}]},
    "engine": {"tp": 1},
    "server": None,
}


def value(key: str, *sets: str) -> Any:
    found: Any = recipe_from_data(BASE, "x", ("server.port=1", *sets)).recipe
    for part in key.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("engine.session_len=4096", "engine.session_len", 4096),
        ("engine.session_len=auto", "engine.session_len", "auto"),
        ("engine.cache.ratio=.5", "engine.cache.ratio", 0.5),
        ("engine.cache.prefix_caching=false", "engine.cache.prefix_caching", False),
        ("engine.cache={blocks: 8, block_len: 16}", "engine.cache.blocks", 8),
        ("engine.cache.quant_policy=8", "engine.cache.quant_policy", "int8"),
        ("server.limits.max_body=1MiB", "server.limits.max_body", 1 << 20),
        ("server.drain_timeout=2m", "server.drain_timeout", 120.0),
        ("chat.defaults.stop=[a, b]", "chat.defaults.stop", ["a", "b"]),
        ("chat.defaults.temperature=null", "chat.defaults.temperature", None),
        ("model.sources.0.revision=v1", "model.sources.0.revision", "v1"),
        ("model.sources[0].hf=c/d", "model.sources.0.hf", "c/d"),
        # a shell eats quotes: where a text is asked for, everything is a text
        ("model.sources.0.revision=1234567", "model.sources.0.revision", "1234567"),
        ("model.sources.0.revision=1e10", "model.sources.0.revision", "1e10"),
        ("chat.system=Answer: yes, or [no", "chat.system", "Answer: yes, or [no"),
        ("chat.system='quoted'", "chat.system", "quoted"),
        ("chat.system=a=b", "chat.system", "a=b"),
        ("chat.system=null", "chat.system", None),
        ("chat.system=", "chat.system", None),
        ("description=", "description", ""),
    ],
)
def test_values_are_read_as_the_key_needs_them(text: str, key: str, expected: Any) -> None:
    assert value(key, text) == expected


def test_a_later_set_wins_and_an_earlier_one_leaves_no_place_behind() -> None:
    assert value("engine.tp", "engine.tp=x", "engine.tp=2") == 2


def test_null_takes_an_origin_away() -> None:
    assert value("model.id", "model.sources=null", "model.id=c/d") == "c/d"


@pytest.mark.parametrize(
    ("text", "code", "col", "help"),
    [
        ("engin.tp=2", "unknown-key", 1, "did you mean `engine`?"),
        ("engine.sesion_len=2", "unknown-key", 8, "did you mean `session_len`?"),
        ("engine.gpu_memory_utilization=0.9", "unknown-key", 8, "`engine.cache.ratio`"),
        ("session_len=2", "unknown-key", 1, "move it to `engine.session_len`"),
        ("engine.tp=two", "wrong-type", 11, None),
        ("engine.tp=0", "out-of-range", 11, None),
        ("engine.cache.quant_policy=off", "invalid-value", 27, "write `none`"),
        ("engine.cache={block_len: 1}", "out-of-range", 26, None),
        ("engine.cache={blok_len: 16}", "unknown-key", 15, "did you mean `block_len`?"),
        ("model.id=a/b", "conflict", 7, "set the other to null"),
        ("model.sources.7.hf=a/b", "bad-set", 15, "has 2 entries"),
        ("engine.tp.x=1", "bad-set", 11, "set the whole of it"),
        ("engine.tp=[1", "yaml-syntax", 11, None),
        ("engine.tp=1\n---\n2", "several-documents", 11, None),
        ("engine.tp", "bad-set", 1, "engine.session_len=4096"),
        ("=1", "bad-set", 1, None),
        ("engine..tp=1", "bad-set", 1, None),
        (".".join(["a"] * 40) + "=1", "bad-set", 1, None),
        ("chat.system=\udc80", "bad-set", 1, None),
    ],
)
def test_an_error_points_into_the_set(text: str, code: str, col: int, help: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        value("version", text)
    (found,) = caught.value.diagnostics
    assert (found.code, found.file, found.line, found.snippet) == (code, "--set", None, text)
    assert found.col == col or code == "several-documents"
    if help is not None:
        assert found.help is not None
        assert help in found.help


def test_errors_of_the_file_and_of_sets_come_together(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("version: 1\nmodel: {id: a/b}\nengine: {tp: x, threads: 1}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, ["engine.threads=0"])
    assert [(d.file, d.line) for d in caught.value.diagnostics] == [(str(file), 3), ("--set", None)]


def test_a_set_mends_what_the_file_has_wrong(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("version: 1\nmodel: {id: a/b}\nengine: {tp: x}\n")
    assert load_recipe(file, ["engine.tp=2"]).recipe.engine.tp == 2
