"""Which template a model gets: the checkpoint's own, a name, a file, fields, a match, or an error that lists them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from template_goldens import ALONE

from deploykit.errors import ConfigError
from deploykit.prompt.template import ChatTemplate
from deploykit.prompt.templates import (
    BUILTINS,
    ChatTemplateConfig,
    Choice,
    ModelClues,
    Resolved,
    match,
    names,
    resolve,
)
from deploykit.prompt.templates.resolve import check_choice

USER = [{"role": "user", "content": "U"}]
LLAMA = ModelClues("LlamaForCausalLM", ("model",))
OWN = ModelClues("LlamaForCausalLM", ("vicuna-7b",), own={"default": "OWN"}, own_from="chat_template.jinja")


def rendered(found: Resolved, **variables: Any) -> str:
    assert found.source is not None
    return ChatTemplate(found.source).render(USER, **variables)


def test_the_checkpoints_own_comes_first() -> None:
    found = resolve(Choice(), OWN)
    assert (found.origin, found.source, found.capability) == ("checkpoint", "OWN", "chat")
    assert "chat_template.jinja" in found.reason


def test_named_templates_of_a_checkpoint() -> None:
    own = {"default": "{{ messages[0].content }}\n", "tool_use": "TOOLS\n", "rag": "RAG"}
    model = ModelClues("CohereForCausalLM", own=own, own_from="tokenizer_config.json")
    found = resolve(Choice(), model)
    assert rendered(found) == "U"
    assert rendered(found, tools=[{"type": "function"}]) == "TOOLS"
    assert resolve(Choice(template="auto:rag"), model).source == "RAG"
    with pytest.raises(ConfigError, match="no chat template called nothing") as caught:
        resolve(Choice(template="auto:nothing"), model)
    assert "default, rag, tool_use" in str(caught.value)


def test_a_single_template_of_another_name_is_the_one() -> None:
    assert resolve(Choice(), ModelClues("X", own={"chat": "C"})).source == "C"
    with pytest.raises(ConfigError, match="called default"):
        resolve(Choice(), ModelClues("X", own={"a": "A", "b": "B"}))


@pytest.mark.parametrize("name", names()[:-1])
def test_a_built_in_by_its_name(name: str) -> None:
    found = resolve(Choice(template=name), OWN)
    assert (found.name, found.origin) == (name, "built-in")
    assert found.stop_words == BUILTINS[name].stop_words
    if name in ALONE:
        assert rendered(found) == ALONE[name]


def test_a_name_that_nothing_has() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(Choice(template="vicunna"), LLAMA)
    assert "did you mean `vicuna`" in str(caught.value)
    for name in names():
        assert name in str(caught.value)


CHECKPOINTS = [
    ("LlamaForCausalLM", "lmsys/vicuna-7b-v1.5", "vicuna"),
    ("LlamaForCausalLM", "meta-llama/Llama-2-7b-chat-hf", "llama2"),
    ("LlamaForCausalLM", "Meta-Llama-3-8B-Instruct", "llama3"),
    ("LlamaForCausalLM", "Llama-3.2-1B-Instruct", "llama3_1"),
    ("LlamaForCausalLM", "Llama 3.1 8B Instruct", "llama3_1"),
    ("LlamaForCausalLM", "codellama/CodeLlama-7b-Instruct-hf", "codellama"),
    ("LlamaForCausalLM", "01-ai/Yi-6B-Chat", "yi"),
    ("LlamaForCausalLM", "deepseek-llm-7b-chat", "deepseek"),
    ("LlamaForCausalLM", "deepseek-coder-6.7b-instruct", "deepseek-coder"),
    ("LlamaForCausalLM", "DeepSeek-R1-Distill-Llama-8B", "deepseek-r1"),
    ("LlamaForCausalLM", "SmolLM2-135M-Instruct", "chatml"),
    ("LlamaForCausalLM", "TinyLlama-1.1B-Chat-v1.0", "zephyr"),
    ("DeepseekV2ForCausalLM", "DeepSeek-V2-Lite-Chat", "deepseek"),
    ("DeepseekV2ForCausalLM", "DeepSeek-V2.5", "deepseek-v2.5"),
    ("DeepseekV3ForCausalLM", "DeepSeek-V3", "deepseek-v3"),
    ("InternLMForCausalLM", "internlm-chat-7b", "internlm"),
    ("InternLM2ForCausalLM", "internlm2_5-7b-chat", "internlm2"),
    ("InternLM3ForCausalLM", "internlm3-8b-instruct", "internlm3"),
    ("MistralForCausalLM", "Mistral-7B-Instruct-v0.2", "mistral"),
    ("MixtralForCausalLM", "Mixtral-8x7B-Instruct-v0.1", "mistral"),
    ("MistralForCausalLM", "OpenHermes-2.5-Mistral-7B", "chatml"),
    ("Qwen2ForCausalLM", "Qwen1.5-7B-Chat", "qwen"),
    ("Qwen2ForCausalLM", "Qwen2.5-7B-Instruct", "qwen2d5"),
    ("Qwen3ForCausalLM", "Qwen3-8B", "chatml"),
    ("GemmaForCausalLM", "gemma-7b-it", "gemma"),
    ("Phi3ForCausalLM", "Phi-3-mini-4k-instruct", "phi-3"),
    ("Phi3ForCausalLM", "phi-4", "phi-4"),
    ("ChatGLMModel", "glm-4-9b-chat", "glm4"),
    ("ChatGLMModel", "chatglm3-6b", "chatglm3"),
    ("BaichuanForCausalLM", "Baichuan2-7B-Chat", "baichuan2"),
    ("CohereForCausalLM", "c4ai-command-r-v01", "command-r"),
    ("InternVLChatModel", "InternVL2_5-8B", "internvl2_5"),
    ("LlavaForConditionalGeneration", "llava-1.5-7b-hf", "llava-v1"),
]


@pytest.mark.parametrize(("architecture", "name", "template"), CHECKPOINTS)
def test_a_checkpoint_without_one_gets_a_built_in(architecture: str, name: str, template: str) -> None:
    found = resolve(Choice(), ModelClues(architecture, ("blob", name)))
    assert (found.name, found.origin) == (template, "built-in")
    assert architecture in found.reason
    assert name in found.reason


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("LlamaForCausalLM", "Llama-2-7b-hf"),
        ("LlamaForCausalLM", "Meta-Llama-3-8B"),
        ("LlamaForCausalLM", "CodeLlama-7b-Python-hf"),
        ("LlamaForCausalLM", "model"),
        ("Qwen2ForCausalLM", "Qwen2.5-7B"),
        ("Qwen3ForCausalLM", "Qwen3-8B-Base"),
        ("DeepseekV3ForCausalLM", "DeepSeek-V3-Base"),
        ("GPT2LMHeadModel", "vicuna-7b"),  # a name alone isn't enough
        ("GemmaForCausalLM", "gemma-7b"),
    ],
)
def test_base_models_and_strangers_match_nothing(architecture: str, name: str) -> None:
    with pytest.raises(ConfigError, match="no built-in is known to fit") as caught:
        resolve(Choice(), ModelClues(architecture, (name,)))
    text = str(caught.value)
    assert architecture in text
    assert name in text
    assert "`chat.capability: completion`" in text
    assert all(builtin in text for builtin in names())


def test_a_match_needs_the_formats_tokens() -> None:
    qwen = ("Qwen2ForCausalLM", ("Qwen2.5-7B-Instruct",))
    assert match(*qwen, has_token=lambda token: True) == ("qwen2d5", "Qwen2.5-7B-Instruct")
    assert match(*qwen, has_token=lambda token: token != "<|im_end|>") is None


def test_a_named_one_without_its_tokens_is_told() -> None:
    found = resolve(Choice(template="chatml"), ModelClues("X", has_token=lambda token: False))
    assert found.notes == (
        "not in this model's vocabulary, and so plain text to it: <|im_start|> <|im_end|>",
    )
    assert resolve(Choice(template="chatml"), ModelClues("X", has_token=lambda token: True)).notes == ()


# ------------------------------------------------------------ fields and files


def test_fields_over_a_built_in() -> None:
    config = ChatTemplateConfig(meta_instruction="M", stop_words=("END",))
    found = resolve(Choice(template="vicuna", fields=config), LLAMA)
    assert rendered(found) == "M USER: U ASSISTANT:"
    assert found.stop_words == ("END",)


def test_fields_by_themselves() -> None:
    config = ChatTemplateConfig(user="[U]", assistant="[A]", eoh="\n")
    found = resolve(Choice(fields=config), OWN)
    assert (found.origin, rendered(found)) == ("fields", "[U]U\n[A]")
    for alone in ({"user": "x"}, {"meta_instruction": "x"}):
        choice = Choice(fields=ChatTemplateConfig(**alone))
        for check in (lambda c: check_choice(c), lambda c: resolve(c, OWN)):
            with pytest.raises(ConfigError, match="don't make a chat template"):
                check(choice)


def test_stop_words_go_with_the_checkpoints_own() -> None:
    found = resolve(Choice(fields=ChatTemplateConfig(stop_words=("END",))), OWN)
    assert (found.source, found.stop_words) == ("OWN", ("END",))


def test_a_file_of_fields_in_lmdeploys_layout(tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    file.write_text(
        json.dumps({"model_name": "vicuna", "meta_instruction": "M", "eoa": None, "model_path": None})
    )
    found = resolve(Choice(template=str(file)), LLAMA)
    assert (found.name, rendered(found)) == ("vicuna", "M USER: U ASSISTANT:")
    found = resolve(Choice(template=str(file), fields=ChatTemplateConfig(user="Q: ")), LLAMA)
    assert rendered(found) == "M Q: U ASSISTANT:"
    file.write_text(json.dumps({"model_name": "mine", "user": "u:", "assistant": "a:", "capability": "chat"}))
    assert rendered(resolve(Choice(template=str(file)), LLAMA)) == "u:Ua:"
    file.write_text(json.dumps({"model_name": "vicunna", "meta_instruction": "M"}))
    with pytest.raises(ConfigError, match="vicunna"):
        resolve(Choice(template=str(file)), LLAMA)
    file.write_text(json.dumps({"model_name": "vicuna", "capability": "completion"}))
    assert not resolve(Choice(template=str(file)), LLAMA).chat
    file.write_text(json.dumps({"model_name": "base"}))
    assert not resolve(Choice(template=str(file)), LLAMA).chat


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "isn't a JSON object"),
        ("{", "isn't a JSON object"),
        ('{"usr": "x"}', "`usr` is no field"),
        ('{"user": 5, "assistant": "a"}', "wrong value"),
        ('{"user": "u", "assistant": "a", "stop_words": [""]}', "stop_words"),
        ('{"user": "u", "assistant": "a", "capability": "sing"}', "wrong value"),
        ('{"model_path": "/x"}', "`model_path` is no field"),
        ("", "can't be read"),
    ],
)
def test_a_file_of_fields_that_is_wrong(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "template.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        check_choice(Choice(template=str(file)))
    assert says in str(caught.value)
    assert "template.json" in str(caught.value)


def test_a_jinja_file_and_hugging_faces_json(tmp_path: Path) -> None:
    jinja = tmp_path / "t.jinja"
    jinja.write_text("{{ messages[0].content }}!")
    assert rendered(resolve(Choice(template=str(jinja)), OWN)) == "U!"
    wrapped = tmp_path / "chat_template.json"
    wrapped.write_text(json.dumps({"chat_template": "<{{ messages[0].content }}>"}))
    assert rendered(resolve(Choice(template=str(wrapped)), OWN)) == "<U>"
    jinja.write_text("line\n{% for %}")
    with pytest.raises(ConfigError, match="syntax error") as caught:
        check_choice(Choice(template=str(jinja)))
    assert "t.jinja, line 2" in str(caught.value)
    jinja.write_text("ok")
    with pytest.raises(ConfigError, match="can't change a Jinja template"):
        resolve(Choice(template=str(jinja), fields=ChatTemplateConfig(user="x")), OWN)


def test_a_config_as_a_recipe_and_back(tmp_path: Path) -> None:
    config = ChatTemplateConfig("vicuna", meta_instruction='"é"\n', capability="chat", stop_words=["a"])
    assert config.to_recipe() == {
        "template": "vicuna",
        "fields": {"meta_instruction": '"é"\n', "stop_words": ["a"]},
        "capability": "chat",
    }
    assert "template" not in ChatTemplateConfig("nobody's", user="u", assistant="a").to_recipe()
    with pytest.raises(ConfigError, match="vicunna"):
        ChatTemplateConfig("vicunna", meta_instruction="x").to_recipe()
    config.to_json(tmp_path / "c.json")
    assert ChatTemplateConfig.from_json(tmp_path / "c.json") == config
    assert ChatTemplateConfig.from_json(config.to_json()) == config
    for wrong in ({"user": 5}, {"capability": "sing"}, {"stop_words": "abc"}, {"stop_words": [""]}):
        with pytest.raises(ConfigError):
            ChatTemplateConfig(**wrong)


# ------------------------------------------------------------ capability


@pytest.mark.parametrize("model", [OWN, LLAMA])
def test_completion_alone(model: ModelClues) -> None:
    for choice in (Choice(capability="completion"), Choice(template="completion"), Choice(template="base")):
        found = resolve(choice, model)
        assert (found.origin, found.source, found.capability, found.chat) == (
            "none",
            None,
            "completion",
            False,
        )
    named = resolve(Choice(template="vicuna", capability="completion"), model)
    assert (named.chat, named.source) == (False, None)
    with pytest.raises(ConfigError, match="no template for chat"):
        resolve(Choice(template="completion", capability="chat"), model)


def test_infilling_and_python_need_no_template() -> None:
    for capability in ("infilling", "python"):
        bare = resolve(Choice(capability=capability), LLAMA)
        assert (bare.chat, bare.capability) == (False, capability)
        own = resolve(Choice(capability=capability), OWN)
        assert (own.source, own.capability) == ("OWN", capability)
    strange = ModelClues("X", has_token=lambda token: False)
    with pytest.raises(ConfigError, match="can't fill in"):
        resolve(Choice(capability="infilling"), strange)
    assert resolve(Choice(capability="python"), OWN).system == "Provide answers in Python"
    assert resolve(Choice(), OWN).system is None
