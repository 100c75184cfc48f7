"""`deploykit schema KEY`: a key explained, and its schema as a document of its own."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from deploykit.cli.app import main
from deploykit.recipe.tree import Node, root


def explained(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["schema", *args]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], field: str) -> str:
    assert main(["schema", field]) == 2
    return capsys.readouterr().err


def test_a_value_with_its_type_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, "engine.cache.quant_policy")
    assert text.splitlines()[0] == "engine.cache.quant_policy"
    assert "Precision of KV memory" in text
    assert "none, int8, k8v4, int4, fp8, 0, 8 or 4" in text
    assert "--set engine.cache.quant_policy=VALUE" in text
    assert "32MiB" in explained(capsys, "server.limits.max_body")  # and not 33554432
    assert "default   10m" in explained(capsys, "server.limits.request_timeout")


def test_a_section_lists_its_keys_and_a_list_what_its_items_may_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = explained(capsys, "engine.cache")
    assert "block_len" in text
    assert "quant_policy" in text
    text = explained(capsys, "model.sources")
    for kind in ("pypi", "hf", "modelscope", "path"):
        assert f"an item with `{kind}`:" in text
    assert explained(capsys, "model.sources[]").startswith("model.sources[]")


@pytest.mark.parametrize(
    "spelling", ["model.sources[].hf", "model.sources.hf", "model.sources.0.hf", "model.sources[2].hf"]
)
def test_spellings_of_a_list(capsys: pytest.CaptureFixture[str], spelling: str) -> None:
    text = explained(capsys, spelling)
    assert text.splitlines()[0] == "model.sources[].hf"
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in text
    assert "required" in text


def test_a_key_that_each_kind_of_entry_has_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, "model.sources[].revision")
    assert "with `hf`: Branch, tag or commit." in text
    assert re.search("default +main.*default +master", text, re.DOTALL)


def test_which_engine_honours_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, "engine.rope_scaling_factor")
    assert re.search("engines +native", text)
    assert "by pytorch: it applies the checkpoint's own" in text
    assert re.search("engines +every engine", explained(capsys, "engine.session_len"))
    assert re.search("example +session_len: ", explained(capsys, "engine.session_len"))


def test_a_name_that_stands_in_one_place_needs_no_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "quant_policy").startswith("engine.cache.quant_policy\n")


def test_a_path_may_start_at_such_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "cache.block_len"]) == 0
    assert capsys.readouterr().out.startswith("engine.cache.block_len\n")
    assert main(["schema", "cache.blok_len"]) == 2
    assert "did you mean `block_len`?" in capsys.readouterr().err


def test_keys_of_a_file_that_are_gone_once_it_is_merged(capsys: pytest.CaptureFixture[str]) -> None:
    assert "laid over" in explained(capsys, "extends")
    assert "--profile NAME" in explained(capsys, "profiles")
    assert explained(capsys, "profiles.awq.engine.tp").startswith("engine.tp\n")
    assert "${vars.NAME}" in explained(capsys, "vars.ctx")
    jsonschema.Draft202012Validator.check_schema(json.loads(explained(capsys, "profiles", "--json")))


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("engine.cach", "did you mean `cache`?"),
        ("modle", "did you mean `model`?"),
        ("engine.cache.ration", "did you mean `ratio`?"),
        ("num_ctx", "Ollama's name for it; here it is `engine.session_len`"),
        ("gpu_memory_utilization", "engine.cache.ratio"),
        ("engine.tp.x", "`engine.tp` has no keys"),
        ("model.path.0", "`model.path` is not a list"),
        ("", "the top-level keys are"),
        ("engine..tp", "there is no key"),
        ("\x1b[31m", "there is no key"),
    ],
)
def test_what_is_no_key_is_told_with_what_was_meant(
    capsys: pytest.CaptureFixture[str], field: str, words: str
) -> None:
    said = refused(capsys, field)
    assert words in said
    assert "\x1b" not in said


def test_every_key_is_explained_and_its_fragment_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def visit(node: Node, path: str) -> None:
        for option in node.alternatives:
            for key in option.keys:
                child = option.child(key)
                assert child is not None
                at = f"{path}.{key}" if path else key
                text = explained(capsys, at)
                assert text.startswith(f"{at}\n")
                assert "values " in text
                assert "default " in text
                jsonschema.Draft202012Validator.check_schema(json.loads(explained(capsys, at, "--json")))
                visit(child, at)
            if option.is_list and (item := option.child(0)) is not None:
                visit(item, f"{path}[]")

    visit(root(), "")


def test_a_fragment_checks_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(explained(capsys, "model.sources", "--json"))
    jsonschema.validate([{"hf": "a/b"}], schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{"hf": "a"}], schema)
