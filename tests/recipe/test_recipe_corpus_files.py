"""Recipes of several files, variables, profiles and tags with one mistake each: code, file, place and way out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from recipe_files import HEAD, write

from deploykit.recipe import RecipeError, check_files


class Case(NamedTuple):
    name: str
    text: str
    file: str
    code: str
    line: int
    col: int
    help: str | None  # a part of the help; None where the message says it all
    profiles: tuple[str, ...] = ()


def below(base: str, top: str = "") -> str:
    """A recipe on line 1 and on, and what it extends."""
    return f"--- recipe.yaml\nextends: base.yaml\n{top}--- base.yaml\n{HEAD}{base}"


def own(text: str) -> str:
    return f"--- recipe.yaml\n{HEAD}{text}"


BOMB = "".join(f"x-{a}: &{a} [{', '.join([f'*{b}'] * 10)}]\n" for a, b in zip("bcdef", "abcde", strict=True))

CASES = [
    # what the reader refuses, in a file that is extended
    Case(
        "duplicate-key",
        below("engine:\n  tp: 1\n  tp: 2\n"),
        "base.yaml",
        "duplicate-key",
        5,
        3,
        "first given on line 4",
    ),
    Case("key-not-text", below("8000: port\n"), "base.yaml", "key-not-text", 3, 1, 'in quotes: `"8000"`'),
    Case("tab", below("engine:\n\ttp: 1\n"), "base.yaml", "yaml-tab", 4, 1, "spaces only"),
    Case("syntax", below("engine: {tp: 1\n"), "base.yaml", "yaml-syntax", 3, 9, "close it with `}`"),
    Case("recursive-alias", below("chat: &c {fields: *c}\n"), "base.yaml", "recursive-alias", 3, 19, None),
    Case(
        "alias-bomb",
        below("x-a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + BOMB),
        "base.yaml",
        "too-large",
        6,
        38,
        None,
    ),
    Case(
        "unknown-alias",
        below("chat: *defaults\n"),
        "base.yaml",
        "unknown-alias",
        3,
        7,
        "`&name` before a value",
    ),
    Case("merge-key", below("<<: {name: x}\n"), "base.yaml", "merge-key", 3, 1, "write the keys out"),
    Case("too-deep", below("x-a: " + "[" * 33 + "]" * 33 + "\n"), "base.yaml", "too-deep", 3, 37, None),
    Case(
        "two-documents",
        below("---\nversion: 1\n"),
        "base.yaml",
        "several-documents",
        3,
        1,
        "a file of its own",
    ),
    Case(
        "python-object",
        below("name: !!python/name:os.system x\n"),
        "base.yaml",
        "yaml-tag",
        3,
        7,
        "remove the tag",
    ),
    Case("control-character", below("name: a\x07\n"), "base.yaml", "not-text", 3, 8, "remove it"),
    # what the schema refuses there
    Case(
        "typo-below", below("engine:\n  sesion_len: 1\n"), "base.yaml", "unknown-key", 4, 3, "`session_len`?"
    ),
    Case(
        "foreign-below",
        below("engine: {max_model_len: 4096}\n"),
        "base.yaml",
        "unknown-key",
        3,
        10,
        "vLLM's name",
    ),
    Case("range-below", below("engine: {tp: 0}\n"), "base.yaml", "out-of-range", 3, 14, None),
    Case(
        "typo-above", below("", "engin: {}\n"), "recipe.yaml", "unknown-key", 2, 1, "did you mean `engine`?"
    ),
    # `extends` itself
    Case(
        "no-such-file",
        f"--- recipe.yaml\nextends: bse.yaml\n--- base.yaml\n{HEAD}",
        "recipe.yaml",
        "missing-file",
        1,
        10,
        "did you mean `base.yaml`?",
    ),
    Case(
        "no-such-folder",
        f"--- recipe.yaml\nextends: x/base.yaml\n{HEAD}",
        "recipe.yaml",
        "missing-file",
        1,
        10,
        "the folder `x` doesn't exist",
    ),
    Case(
        "second-entry",
        f"--- recipe.yaml\nextends:\n  - base.yaml\n  - other.yaml\n--- base.yaml\n{HEAD}",
        "recipe.yaml",
        "missing-file",
        3,
        5,
        "relative to the file that it stands in",
    ),
    Case(
        "a-folder",
        f"--- recipe.yaml\nextends: sub\n{HEAD}--- sub/base.yaml\n{HEAD}",
        "recipe.yaml",
        "not-a-file",
        1,
        10,
        "name a file inside of it",
    ),
    Case(
        "an-address",
        f"--- recipe.yaml\nextends: https://a.b/c.yaml\n{HEAD}",
        "recipe.yaml",
        "missing-file",
        1,
        10,
        "download it",
    ),
    Case(
        "no-text",
        f"--- recipe.yaml\nextends: 5\n{HEAD}",
        "recipe.yaml",
        "wrong-type",
        1,
        10,
        "`extends: _base/chat.yaml`",
    ),
    Case(
        "no-value",
        f"--- recipe.yaml\nextends:\n{HEAD}",
        "recipe.yaml",
        "wrong-type",
        1,
        1,
        "`extends: _base/chat.yaml`",
    ),
    Case(
        "empty-base",
        f"--- recipe.yaml\nextends: base.yaml\n{HEAD}--- base.yaml\n# later\n",
        "recipe.yaml",
        "empty-recipe",
        1,
        10,
        None,
    ),
    Case(
        "list-base",
        f"--- recipe.yaml\nextends: base.yaml\n{HEAD}--- base.yaml\n- a\n",
        "recipe.yaml",
        "not-a-recipe",
        1,
        10,
        None,
    ),
    Case(
        "itself",
        f"--- recipe.yaml\n{HEAD}extends: recipe.yaml\n",
        "recipe.yaml",
        "extends-cycle",
        3,
        10,
        "remove one",
    ),
    Case(
        "circle",
        f"--- recipe.yaml\n{HEAD}extends: a.yaml\n--- a.yaml\nextends: b.yaml\n--- b.yaml\nname: b\n"
        "extends: [a.yaml]\n",
        "b.yaml",
        "extends-cycle",
        2,
        11,
        "remove one",
    ),
    Case(
        "extends-in-section",
        own("engine: {extends: a.yaml}\n"),
        "recipe.yaml",
        "unknown-key",
        3,
        10,
        "belongs at the top level",
    ),
    Case(
        "extends-misspelt",
        own("extend: a.yaml\n"),
        "recipe.yaml",
        "unknown-key",
        3,
        1,
        "did you mean `extends`?",
    ),
    # tags
    Case(
        "append-to-text",
        below("name: a\n", "name: !append [b]\n"),
        "recipe.yaml",
        "conflict",
        2,
        1,
        "remove the tag to replace it",
    ),
    Case(
        "append-a-text",
        below("", "name: !append b\n"),
        "recipe.yaml",
        "yaml-tag",
        2,
        7,
        'write `!append ["b"]`',
    ),
    Case(
        "append-a-section",
        below("", "engine: !append {tp: 1}\n"),
        "recipe.yaml",
        "yaml-tag",
        2,
        9,
        "merged key by key by itself",
    ),
    Case(
        "tag-in-list",
        below("", "server: {model_names: [!reset x]}\n"),
        "recipe.yaml",
        "yaml-tag",
        2,
        24,
        "remove the tag",
    ),
    Case(
        "tag-misspelt",
        below("", "engine: !rest {tp: 1}\n"),
        "recipe.yaml",
        "yaml-tag",
        2,
        9,
        "did you mean `!reset`?",
    ),
    Case(
        "tag-without-space",
        below("", "engine: {tp: !reset}\n"),
        "recipe.yaml",
        "yaml-syntax",
        2,
        20,
        "followed by a space",
    ),
    Case(
        "reset-of-the-required",
        below("", "model: !reset {dtype: auto}\n"),
        "recipe.yaml",
        "missing-key",
        2,
        1,
        "`id: owner/name`",
    ),
    # profiles
    Case(
        "profile-typo",
        own("profiles:\n  a: {engin: {}}\n"),
        "recipe.yaml",
        "unknown-key",
        4,
        7,
        "did you mean `engine`?",
    ),
    Case(
        "profile-value",
        own("profiles:\n  a: {engine: {tp: two}}\n"),
        "recipe.yaml",
        "wrong-type",
        4,
        20,
        None,
    ),
    Case(
        "profile-below", below("profiles: {a: {engine: {tp: 0}}}\n"), "base.yaml", "out-of-range", 3, 29, None
    ),
    Case(
        "profile-conflict",
        own("profiles: {a: {model: {path: m}}}\n"),
        "recipe.yaml",
        "conflict",
        3,
        24,
        "`id: !reset`",
    ),
    Case(
        "profile-extra-key",
        own("profiles: {a: {x-note: 1}}\n"),
        "recipe.yaml",
        "unknown-key",
        3,
        16,
        "at the top of a file alone",
    ),
    Case(
        "profiles-misspelt",
        own("profile: {a: {}}\n"),
        "recipe.yaml",
        "unknown-key",
        3,
        1,
        "did you mean `profiles`?",
    ),
    # variables; tests/recipe/test_recipe_references.py has the forms of references
    Case(
        "unset-below",
        below("name: ${vars.nam}\n", "vars: {name: x}\n"),
        "base.yaml",
        "unset-variable",
        3,
        7,
        "did you mean `${vars.name}`?",
    ),
    Case(
        "unset-environment",
        own("name: ${env.NO_SUCH_VARIABLE_1}\n"),
        "recipe.yaml",
        "unset-variable",
        3,
        7,
        "set it, or give a default",
    ),
    Case(
        "of-a-profile-alone",
        own("name: ${vars.x}\nprofiles: {a: {vars: {x: b}}}\n"),
        "recipe.yaml",
        "unset-variable",
        3,
        7,
        "add it under `vars:`",
    ),
    Case(
        "in-a-block",
        own("chat:\n  system: |\n    Hi\n    ${vars.who}\n"),
        "recipe.yaml",
        "unset-variable",
        6,
        5,
        "add it under `vars:`",
    ),
    Case(
        "cycle-over-files",
        below("vars: {a: 'x${vars.b}'}\n", "vars:\n  b: ${vars.a}\nname: ${vars.b}\n"),
        "recipe.yaml",
        "reference-cycle",
        3,
        6,
        "write one of them out",
    ),
    Case(
        "reference-unquoted",
        own("engine: {tp: ${vars.tp}}\nvars: {tp: 1}\n"),
        "recipe.yaml",
        "yaml-syntax",
        3,
        14,
        "in quotes",
    ),
    Case("vars-misspelt", own("var: {a: 1}\n"), "recipe.yaml", "unknown-key", 3, 1, "did you mean `vars`?"),
    Case(
        "extra-key-inside",
        own("engine: {x-note: 1}\n"),
        "recipe.yaml",
        "unknown-key",
        3,
        10,
        "at the top of a file alone",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_mistake_one_error(case: Case, tmp_path: Path) -> None:
    found = check_files([write(tmp_path, case.text)], (), case.profiles, every_profile=True)
    assert [(d.code, d.file.removeprefix(f"{tmp_path}/"), d.line, d.col) for d in found] == [
        (case.code, case.file, case.line, case.col)
    ], str(RecipeError(found)) if found else ""
    (only,) = found
    assert case.help is None or case.help in (only.help or ""), only.help
