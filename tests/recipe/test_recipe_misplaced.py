"""A key that is misspelt or misplaced and whose value is wrong as well: both are told in one pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe_files import HEAD, errors, write

from deploykit.recipe import RecipeError, check_recipe


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("server: {ratio: 5}", [("unknown-key", 10), ("out-of-range", 17)]),
        ("server: {ratio: 0.5}", [("unknown-key", 10)]),
        ("chat: {port: x}", [("unknown-key", 8), ("wrong-type", 14)]),
        ("engine: {sesion_len: many}", [("unknown-key", 10), ("invalid-value", 22)]),
        ("engine: {sessionLen: [1]}", [("unknown-key", 10), ("wrong-type", 22)]),
        # a section with keys of its own, right and wrong ones
        ("restart: {max: -1, window: 5m}", [("unknown-key", 1), ("out-of-range", 16)]),
        ("restart: {maxx: 1, window: 5m}", [("unknown-key", 1), ("unknown-key", 11)]),
        # where the key stands in its own place too, and where two are the same key
        ("engine: {cache: {ratio: 0.5}, ratio: 2}", [("unknown-key", 31), ("out-of-range", 38)]),
        (
            "engine: {ratio: 2, cache: {rattio: 3}}",
            [("unknown-key", 10), ("out-of-range", 17), ("unknown-key", 28), ("out-of-range", 36)],
        ),
        # other servers write other values: the translation says what to write
        ("engine: {kv_cache_dtype: fp8_e5m2}", [("unknown-key", 10)]),
        # nowhere to put it, and keys of which no one knows what they are
        ("engine: 5\nratio: 7", [("wrong-type", 9), ("unknown-key", 1)]),
        ("engine: {flux: [1]}", [("unknown-key", 10)]),
        ("engine: {profiles: 3}", [("unknown-key", 10)]),
    ],
)
def test_both_mistakes_of_a_key(tmp_path: Path, text: str, found: list[tuple[str, int]]) -> None:
    assert [(code, col) for _, code, _, col in errors(tmp_path, f"{HEAD}{text}\n")] == found


def test_the_value_is_judged_as_that_of_the_key_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(write(tmp_path, f"{HEAD}server: {{sesion_len: 8k}}\n"))
    key, value = caught.value.diagnostics
    assert (
        key.help == "did you mean `session_len`? it belongs under `engine`: move it to `engine.session_len`"
    )
    assert value.message.startswith("`engine.session_len` must be `auto` or a whole number")
    assert value.help == "write `8192`"


def test_a_credential_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(write(tmp_path, f"{HEAD}api_keys: sk-very-secret\n"))
    assert [d.code for d in caught.value.diagnostics] == ["unknown-key", "wrong-type"]
    assert "very-secret" not in str(caught.value)


def test_many_that_mean_the_same_key_are_checked_one_at_a_time(tmp_path: Path) -> None:
    """All alike, so that one at a time can be put where they belong."""
    lines = "".join(f"  sesion_len{'_' * n}: x\n" for n in range(1, 40))
    found = errors(tmp_path, f"{HEAD}engine:\n{lines}server: {{ratio: 5}}\n")
    assert [code for _, code, _, _ in found].count("unknown-key") == 40
    assert ("out-of-range", 17) in {(code, col) for _, code, _, col in found}
