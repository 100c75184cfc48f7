"""A built-in for a checkpoint that brings no template: by its architecture and its name, both.

A name alone says too little (a folder may be called anything), and an architecture alone says nothing about tuning: a
base model has the same one. Models that aren't tuned for chat match nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from deploykit.prompt.templates.builtins import BUILTINS

_LLAMA = ("LlamaForCausalLM",)
_MISTRAL = ("MistralForCausalLM", "MixtralForCausalLM", "LlamaForCausalLM")  # GGUF calls them all llama
_QWEN2 = ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen2VLForConditionalGeneration")
_QWEN25 = (*_QWEN2, "Qwen2_5_VLForConditionalGeneration")
_QWEN3 = ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM")
_GEMMA = (
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",
)
_PHI = ("Phi3ForCausalLM", "PhiMoEForCausalLM", "PhimoeForCausalLM", "Phi3SmallForCausalLM")
_DEEPSEEK = ("LlamaForCausalLM", "DeepseekForCausalLM", "DeepseekV2ForCausalLM")
_GLM = ("ChatGLMModel", "ChatGLMForConditionalGeneration", "GlmForCausalLM", "Glm4ForCausalLM")
_INTERNVL = ("InternVLChatModel", "InternVLForConditionalGeneration")
_LLAVA = ("LlavaForConditionalGeneration", "LlavaLlamaForCausalLM", "LlavaNextForConditionalGeneration")

# A base model, whatever else its name says.
_BASE = re.compile(r"(?<![a-z])(base|pretrain(ed)?)(?![a-z])")


class Rule(NamedTuple):
    template: str
    architectures: tuple[str, ...]
    name: str  # a pattern, searched for in a name in lower case with dashes


RULES = (
    Rule("deepseek-r1", ("LlamaForCausalLM", "Qwen2ForCausalLM", "DeepseekV3ForCausalLM"), r"deepseek-r1"),
    Rule("deepseek-v3", ("DeepseekV3ForCausalLM",), r"deepseek-v3"),
    Rule("deepseek-v2.5", ("DeepseekV2ForCausalLM",), r"deepseek-v2\.5"),
    Rule("deepseek", ("DeepseekV2ForCausalLM",), r"deepseek-coder-v2.*instruct"),
    Rule("deepseek-coder", _LLAMA, r"deepseek-coder.*instruct"),
    Rule("deepseek-vl", ("MultiModalityCausalLM",), r"deepseek-vl.*chat"),
    Rule("deepseek", _DEEPSEEK, r"deepseek.*chat"),
    Rule("codellama", _LLAMA, r"code-?llama.*instruct"),
    Rule("llama2", _LLAMA, r"llama-?2.*chat"),
    Rule("llama3_1", _LLAMA, r"llama-?3[.-][123](?![0-9]*b).*instruct"),
    Rule("llama3", _LLAMA, r"llama-?3.*instruct"),
    Rule("vicuna", _LLAMA, r"vicuna|wizardlm-(13b|70b)"),
    Rule("yi", _LLAMA, r"(?<![a-z])yi-.*chat"),
    Rule("internlm3", ("InternLM3ForCausalLM", "LlamaForCausalLM"), r"internlm3.*instruct"),
    Rule("internlm2", ("InternLM2ForCausalLM", "LlamaForCausalLM"), r"internlm2.*chat"),
    Rule("internlm", ("InternLMForCausalLM", "LlamaForCausalLM"), r"internlm-?chat"),
    Rule("solar", _LLAMA, r"solar.*(instruct|0-70b)"),
    Rule("zephyr", _MISTRAL, r"zephyr|tinyllama.*chat"),
    Rule("openchat", _MISTRAL, r"openchat|starling"),
    Rule("chatml", _MISTRAL, r"smollm.*instruct|openhermes|hermes-[23]|dolphin-2"),
    Rule("mistral", _MISTRAL, r"mistral-7b-instruct-v0\.[12]|mixtral-8x(7|22)b-instruct"),
    Rule("ultralm", _LLAMA, r"ultra(lm|cm)"),
    Rule("chatml", _QWEN3, r"qwen3"),
    Rule("qwq", _QWEN2, r"qwq(?!.*preview)"),
    Rule("qwen2d5", _QWEN25, r"qwen2[.-]5.*instruct"),
    Rule("qwen", _QWEN2, r"qwen(1[.-]5|2).*(chat|instruct)"),
    Rule("gemma", _GEMMA, r"gemma.*-it(?![a-z])"),
    Rule("phi-3", _PHI, r"phi-?3.*instruct"),
    Rule("phi-4", _PHI, r"phi-?4(?!-(mini|multimodal))"),
    Rule("codegeex4", _GLM, r"codegeex4"),
    Rule("chatglm3", _GLM, r"chatglm3"),
    Rule("glm4", _GLM, r"glm-?4.*(chat|0414)"),
    Rule("baichuan2", ("BaichuanForCausalLM",), r"baichuan2.*chat"),
    Rule("command-r", ("CohereForCausalLM",), r"command-?r"),
    Rule("minicpm", ("MiniCPMForCausalLM", "LlamaForCausalLM"), r"minicpm-[12]b-(sft|dpo|chat)"),
    Rule("cogvlm2", ("CogVLMForCausalLM",), r"cogvlm2.*chat"),
    Rule("cogvlm", ("CogVLMForCausalLM",), r"cogvlm-?chat"),
    Rule("deepseek-vl2", ("DeepseekVLV2ForCausalLM",), r"deepseek-vl2"),
    Rule("yi-vl", ("LlavaLlamaForCausalLM",), r"yi-vl"),
    Rule("internvl2_5", _INTERNVL, r"internvl2[.-]5"),
    Rule("internvl2-phi3", _INTERNVL, r"internvl2-4b"),
    Rule("internvl2-internlm2", _INTERNVL, r"internvl2"),
    Rule("internvl-phi3", _INTERNVL, r"mini-internvl.*4b.*v1[.-]5"),
    Rule("internvl-internlm2", _INTERNVL, r"internvl.*v1[.-]5"),
    Rule("internvl-zh", _INTERNVL, r"internvl.*v1[.-]1"),
    Rule("llava-chatml", (*_INTERNVL, *_LLAVA), r"internvl.*v1[.-]2|llava-v1\.6-34b"),
    Rule("llava-v1", _LLAVA, r"llava-v?1\.5"),
)


class Match(NamedTuple):
    template: str
    name: str  # the name that decided


def match(
    architecture: str, names: Iterable[str], has_token: Callable[[str], bool] | None = None
) -> Match | None:
    """The first rule that fits; with `has_token`, only where the vocabulary has the format's control tokens."""
    for name in names:
        plain = re.sub(r"[\s_]+", "-", name.lower())
        if _BASE.search(plain):
            continue
        for rule in RULES:
            if architecture not in rule.architectures or not re.search(rule.name, plain):
                continue
            if has_token is not None and not all(map(has_token, BUILTINS[rule.template].control)):
                continue
            return Match(rule.template, name)
    return None
