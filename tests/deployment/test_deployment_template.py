"""The chat template of a deployment: from the checkpoint's files, the recipe and the model's name to the spec."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import TEMPLATE

from deploykit.checkpoint import read_facts
from deploykit.checkpoint.errors import CheckpointError
from deploykit.deployment.prepare import prepare
from deploykit.deployment.stage import Stage
from deploykit.deployment.target import load
from deploykit.deployment.templates import choose_template, clues, own_templates
from deploykit.errors import ConfigError
from deploykit.prompt.templates import BUILTINS
from deploykit.prompt.templates.registry import is_file
from deploykit.prompt.templates.resolve import is_path
from deploykit.recipe import recipe_from_data
from deploykit.recipe.schema import is_python_file, is_template_file


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that may be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "Tiny-Llama"))


def set_template(folder: Path, value: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": value}))


def own(folder: Path) -> tuple[dict[str, str], str]:
    return own_templates(read_facts(folder), {})


def test_where_a_folder_keeps_templates(folder: Path) -> None:
    assert own(folder) == ({"default": TEMPLATE}, "tokenizer_config.json")
    set_template(folder, [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}])
    assert own(folder) == ({"default": "D", "tool_use": "T"}, "tokenizer_config.json")
    (folder / "chat_template.json").write_text('{"chat_template": "J"}')
    assert own(folder)[0] == {"default": "J", "tool_use": "T"}
    (folder / "chat_template.jinja").write_text("F ü")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("R")
    assert own(folder) == ({"default": "F ü", "tool_use": "T", "rag": "R"}, "chat_template.jinja")


@pytest.fixture
def write_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a tiny llama as tiny.gguf with changed metadata (dots as __, None removes a key)."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "checkpoint")
    import checkpoint_files
    import gguf_writer

    def write(**changes: Any) -> Path:
        tensors = checkpoint_files.llama_tensors()
        path: Path = gguf_writer.write_gguf(
            tmp_path / "tiny.gguf", checkpoint_files.metadata(**changes), tensors
        )
        return path

    return write


def test_the_templates_of_a_gguf(write_gguf: Callable[..., Path]) -> None:
    named = write_gguf(tokenizer__chat_template="D", **{"tokenizer__chat_template__tool_use": "T"})
    loaded = recipe_from_data({"version": 1, "model": {"path": str(named)}}, name="x")
    found = clues(loaded, read_facts(named))
    assert found.own == {"default": "D", "tool_use": "T"}
    assert found.own_from == "tiny.gguf, tokenizer.chat_template"
    assert "T" in (choose_template(loaded, read_facts(named)).source or "")
    alone = write_gguf(tokenizer__chat_template="D")
    assert choose_template(loaded, read_facts(alone)).source == "D"


def test_a_gguf_without_a_template_is_known_by_what_it_says(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(tokenizer__chat_template=None, general__name="SmolLM2 135M Instruct")
    loaded = recipe_from_data({"version": 1, "model": {"path": str(path)}}, name="x")
    found = choose_template(loaded, read_facts(path))
    assert (found.name, found.origin) == ("chatml", "built-in")
    assert "SmolLM2 135M Instruct" in found.reason
    path = write_gguf(
        tokenizer__chat_template=None, general__basename="SmolLM2", general__finetune="Instruct"
    )
    assert choose_template(loaded, read_facts(path)).name == "chatml"


@pytest.mark.parametrize("value", [5, [{"name": "default", "template": 5}], "x" * (5 << 20)])
def test_a_damaged_template_names_its_file(folder: Path, value: Any) -> None:
    facts = read_facts(folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(CheckpointError, match="sane length") as caught:
        own_templates(facts, {})
    assert "chat_template.json" in str(caught.value)


def test_a_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    inside = folder / "additional_chat_templates"
    inside.mkdir()
    (tmp_path / "secret.jinja").write_text("S")
    (inside / "a.jinja").symlink_to(tmp_path / "secret.jinja")
    with pytest.raises(CheckpointError, match="leads out"):
        own(folder)


def test_links_of_hugging_faces_cache(folder: Path, tmp_path: Path) -> None:
    repo = tmp_path / "models--a--b"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "hash").write_text("B")
    snapshot = repo / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (snapshot / "additional_chat_templates").mkdir()
    (snapshot / "additional_chat_templates" / "rag.jinja").symlink_to("../../../blobs/hash")
    assert own(snapshot)[0]["rag"] == "B"


def test_what_a_model_is_called(folder: Path) -> None:
    facts = read_facts(folder)
    loaded = recipe_from_data({"version": 1, "model": {"sources": [{"hf": "a/Vicuna-7B"}]}}, name="mine")
    names = clues(loaded, facts).names
    assert names == ("a/Vicuna-7B", "Tiny-Llama", "mine")
    assert choose_template(loaded, facts).origin == "checkpoint"


def test_a_checkpoint_without_a_template(folder: Path, tmp_path: Path) -> None:
    set_template(folder, None)
    with pytest.raises(ConfigError, match="no built-in is known to fit") as caught:
        prepare(str(folder))
    assert caught.value.exit_code == 2
    assert "Tiny-Llama" in str(caught.value)
    spec = prepare(str(folder), sets=["chat.capability=completion"]).serve
    assert (spec.chat_template, spec.capability) == (None, "completion")
    assert "chat.capability" in (spec.no_chat or "")
    vicuna = tmp_path / "vicuna-7b-v1.5"
    folder.rename(vicuna)
    stages: list[Stage] = []
    spec = prepare(str(vicuna), report=stages.append).serve
    assert (spec.template_name, spec.template_stops) == ("vicuna", ("</s>",))
    assert spec.chat_template is not None
    assert "USER: " in spec.chat_template
    [plan] = [s for s in stages if s.name == "plan" and s.state == "done"]
    assert "chat template vicuna" in plan.detail


def test_a_recipe_with_fields_a_file_and_a_class(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")  # deciding doesn't run it
    (tmp_path / "fields.json").write_text('{"user": "u:", "assistant": "a:"}')
    path = tmp_path / "r.yaml"

    def spec(chat: str) -> Any:
        path.write_text(f"version: 1\nmodel: {{path: {checkpoint}}}\nchat: {{{chat}}}\n")
        return prepare(str(path)).serve

    changed = spec('template: qwen, fields: {meta_instruction: "Rhyme.", stop_words: [END]}')
    assert "Rhyme." in changed.chat_template
    assert changed.template_stops == ("END",)
    assert "u:" in spec("template: fields.json").chat_template
    made = spec("template: mine, python: mine.py")
    assert (made.template_python, made.template_name) == (str(tmp_path / "mine.py"), "mine")
    assert made.chat_template is None
    python = spec("capability: python")
    assert (python.chat_template, python.system) == (TEMPLATE, "Provide answers in Python")
    assert spec("capability: python, system: Mine.").system == "Mine."
    assert BUILTINS["chatml"].stop_words == spec("template: chatml").template_stops


@pytest.mark.parametrize(
    "text",
    [
        "auto",
        "auto:x",
        "chatml",
        "llama3_1",
        "qwen2.5",
        "a.jinja",
        "A.JSON",
        "./a",
        "a/b",
        "a\\b",
        "t.j2",
        "x.py",
    ],
)
def test_recipe_and_prompt_agree_on_what_a_path_is(text: str) -> None:
    assert is_template_file(text) == is_path(text)
    assert is_python_file(text) == is_file(text)


@pytest.mark.parametrize(
    ("chat", "says"),
    [
        ("template=vicunna", "did you mean `vicuna`"),
        ("template=./none.jinja", "can't be read"),
        ("python=./none.py", "missing"),
        ("fields={user: x}", "`user` and `assistant` are needed"),
    ],
)
def test_what_is_refused_before_a_model_is_looked_at(checkpoint: Path, chat: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(str(checkpoint), sets=[f"chat.{chat}"])
    assert says in str(caught.value)
