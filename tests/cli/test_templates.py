"""`deploykit templates`, and the line of `deploykit plan` that says which template is used and why."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deploykit.cli.app import main
from deploykit.prompt.templates import names

Capture = pytest.CaptureFixture[str]
USER = [{"role": "user", "content": "Hi \x1b[31m"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny checkpoint with a template of its own, of the name `tiny`."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "deployment"))
    try:
        import tiny_checkpoint
    finally:
        sys.path.pop(0)
    return tiny_checkpoint.make(tmp_path / "tiny")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYKIT_CACHE", str(tmp_path / "cache"))


def without_template(model: Path, name: str) -> Path:
    config = model / "tokenizer_config.json"
    config.write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return model.rename(model.parent / name)


def run(capsys: Capture, *args: str) -> tuple[int, str, str]:
    code = main(["templates", *args])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_list(capsys: Capture) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == names()
    code, out, _ = run(capsys, "list", "--json")
    data = json.loads(out)
    assert [row["name"] for row in data] == names()
    assert data[0] == {
        "name": "chatml",
        "models": data[0]["models"],
        "aliases": ["smollm2"],
        "stop_words": ["<|im_end|>"],
    }


def test_show_a_built_in(capsys: Capture) -> None:
    code, out, _ = run(capsys, "show", "vicuna")
    assert code == 0
    assert 'stop_words  "</s>"' in out
    assert 'user              "USER: "' in out
    assert "{%- for message in messages %}" in out
    code, out, _ = run(capsys, "show", "base")
    assert "completion: chat.template names it" in out


def test_render(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = run(capsys, "show", "mistral", "--render")
    assert out == (
        "<bos>[INST] You are brief.\n\nWhat is the capital of France? [/INST]Paris.</s>[INST] And of Italy? [/INST]\n"
    )
    file = tmp_path / "m.json"
    file.write_text(json.dumps(USER))
    _, out, _ = run(capsys, "show", "chatml", "--render", str(file))
    assert out == "<|im_start|>user\nHi \\x1b[31m<|im_end|>\n<|im_start|>assistant\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps({"messages": USER}).encode())))
    _, out, _ = run(capsys, "show", "chatml", "--render", "-", "--json")
    assert json.loads(out)["rendered"] == "<|im_start|>user\nHi \x1b[31m<|im_end|>\n<|im_start|>assistant\n"


def test_show_a_model_and_a_recipe(capsys: Capture, model: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "show", str(model))
    assert code == 0
    assert "checkpoint: the checkpoint's own, from tokenizer_config.json" in out
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"version: 1\nmodel: {{path: {model}}}\nchat: {{template: llama2, system: Rhyme.}}\n")
    (tmp_path / "m.json").write_text(json.dumps(USER))
    _, out, _ = run(capsys, "show", str(recipe), "--render", str(tmp_path / "m.json"))
    assert out.startswith("<s>[INST] <<SYS>>\nRhyme.\n<</SYS>>\n\nHi ")
    _, out, _ = run(capsys, "show", str(recipe), "--set", "chat.template=chatml")
    assert "not in this model's vocabulary" in out
    assert "<|im_start|>" in out


def test_show_the_real_models(capsys: Capture, smollm2: Path) -> None:
    code, out, _ = run(capsys, "show", str(smollm2), "--json")
    data = json.loads(out)
    assert (code, data["origin"]) == (0, "checkpoint")
    assert "tokenizer.chat_template" in data["reason"]
    _, rendered, _ = run(capsys, "show", str(smollm2), "--render")
    _, chatml, _ = run(capsys, "show", "chatml", "--render")
    assert rendered == chatml  # its own template is ChatML, where a conversation has a system message


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["show"], "needs a name"),
        (["list", "chatml"], "takes no name"),
        (["show", "chatmll"], "did you mean `chatml`"),
        (["show", "chatml", "m.json"], "--render"),
        (["show", "chatml", "--set", "a=b"], "--set goes with"),
        (["show", "chatml", "--render", "none.json"], "can't be read"),
        (["show", "completion", "--render"], "no template to render"),
        (["show", "none.jinja"], "can't be read"),
    ],
)
def test_mistakes(capsys: Capture, args: list[str], says: str) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert says in err


@pytest.mark.parametrize("content", ["{", "[]", '{"messages": 5}', '["a"]', '[{"content": "x"}]'])
def test_messages_that_are_none(capsys: Capture, tmp_path: Path, content: str) -> None:
    file = tmp_path / "m.json"
    file.write_text(content)
    code, _, err = run(capsys, "show", "chatml", "--render", str(file))
    assert code == 2
    assert "m.json" in err


def test_messages_that_a_template_refuses(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(json.dumps([*USER, *USER]))
    code, _, err = run(capsys, "show", "mistral", "--render", str(file))
    assert code == 1
    assert "in turns" in err


# ------------------------------------------------------------ plan


def plan(capsys: Capture, *args: str) -> tuple[int, str, str]:
    code = main(["plan", *args, "--set", "engine.device=cpu"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_plan_says_which_template_and_why(capsys: Capture, model: Path) -> None:
    code, out, _ = plan(capsys, str(model))
    assert code == 0
    assert "Chat template\n  checkpoint: the checkpoint's own, from tokenizer_config.json\n" in out
    vicuna = without_template(model, "vicuna-7b-v1.5")
    code, out, _ = plan(capsys, str(vicuna))
    assert code == 0
    assert "  vicuna: the checkpoint brings none, and a LlamaForCausalLM called vicuna-7b-v1.5" in out
    _, out, _ = plan(capsys, str(vicuna), "--json")
    template: dict[str, Any] = json.loads(out)["template"]
    assert (template["name"], template["origin"], template["stop_words"]) == ("vicuna", "built-in", ["</s>"])


def test_plan_refuses_what_no_template_fits(capsys: Capture, model: Path) -> None:
    stranger = without_template(model, "stranger")
    code, out, err = plan(capsys, str(stranger))
    assert code == 2
    assert "KV memory" in out  # the plan is shown all the same
    assert "no built-in is known to fit" in err
    for name in names():
        assert name in err
    assert "chat.capability: completion" in err
    code, out, _ = plan(capsys, str(stranger), "--json")
    data = json.loads(out)
    assert (code, data["template"], data["fits"]) == (2, None, True)
    assert "completion" in data["error"]["fix"]
    code, out, _ = plan(capsys, str(stranger), "--set", "chat.capability=completion")
    assert code == 0
    assert "only plain completion is served" in out
