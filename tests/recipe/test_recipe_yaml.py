"""YAML text to data: the core schema of YAML 1.2, and where everything stands."""

from __future__ import annotations

import math
from typing import Any

import pytest

from deploykit.recipe.loader import MAX_DEPTH, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("+12", 12),
        ("-3", -3),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1e3", 1000.0),
        ("1.0e+3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("+", "+"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!int 12", 12),
        ("!!float 1", 1),
        ("=", "="),
    ],
)
def test_scalars_are_read_as_yaml_1_2_says(text: str, value: Any) -> None:
    document = parse(f"key: {text}\n", "x")
    assert not document.problems
    assert document.data == {"key": value}
    assert type(document.data["key"]) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(parse("key: .NaN", "x").data["key"])


def test_places_point_at_keys_and_values_over_all_line_breaks() -> None:
    text = "a: 1\r\nb:\r  - x\n  - {c: 'dd'}\u2028e: ü😀 # note\n"
    places = parse(text, "x").places

    def at(*path: str | int) -> tuple[Any, ...]:
        place = places[path]
        key = place.key and (place.key.line, place.key.col, place.key.length)
        return key, (place.value.line, place.value.col, place.value.length)

    assert at("a") == ((1, 1, 1), (1, 4, 1))
    assert at("b", 0) == (None, (3, 5, 1))
    assert at("b", 1) == (None, (4, 5, 9))
    assert at("b", 1, "c") == ((4, 6, 1), (4, 9, 4))
    assert at("e") == ((5, 1, 1), (5, 4, 2))


def test_an_alias_gives_a_copy_that_points_at_its_anchor() -> None:
    document = parse("a: &x {b: [1]}\nc: *x\n", "x")
    assert document.data == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert document.data["a"] is not document.data["c"]
    assert document.places[("c", "b")].value == document.places[("a", "b")].value


def test_the_deepest_allowed_nesting_is_read_and_one_more_is_not() -> None:
    assert not parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "x").problems
    assert [p.code for p in parse("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "x").problems] == [
        "too-deep"
    ]


def test_aliases_count_towards_the_depth() -> None:
    half = MAX_DEPTH // 2 + 1
    text = f"a: &a {'[' * half}{']' * half}\nb: {'[' * half}*a{']' * half}\n"
    assert [p.code for p in parse(text, "x").problems] == ["too-deep"]


def test_a_byte_order_mark_and_one_explicit_document_are_fine() -> None:
    assert parse("---\na: 1\n...\n", "x").data == {"a": 1}
