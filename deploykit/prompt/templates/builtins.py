"""The chat templates that come with deploykit: published formats, under the names that LMDeploy gave them."""

from __future__ import annotations

import difflib

from deploykit.errors import ConfigError
from deploykit.prompt.templates.families import (
    chatml,
    deepseek,
    deepseek3,
    glm4,
    llama2,
    llama3,
    phi3,
    vicuna,
)
from deploykit.prompt.templates.format import Format
from deploykit.prompt.templates.vision import VISION

COMPLETION = "completion"  # no template: only plain completion is served

_INTERNLM = """You are an AI assistant whose name is InternLM (书生·浦语).
- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory \
(上海人工智能实验室). It is designed to be helpful, honest, and harmless.
- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such as \
English and 中文."""
_CODER = (
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you "
    "only answer questions related to computer science. For politically sensitive questions, security and privacy "
    "issues, and other non-computer science questions, you will refuse to answer\n"
)


_TEXT = (
    chatml("chatml", "Qwen3, SmolLM2, Yi, Hermes and everything else that was tuned on ChatML"),
    chatml("qwen", "Qwen, Qwen1.5, Qwen2, Qwen2-VL", meta_instruction="You are a helpful assistant."),
    chatml(
        "qwen2d5",
        "Qwen2.5, Qwen2.5-Coder",
        meta_instruction="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    chatml("qwq", "QwQ; an answer begins inside <think>", generation="<|im_start|>assistant\n<think>\n"),
    chatml("yi", "Yi chat", stop_words=("<|im_end|>", "<|endoftext|>")),
    Format(
        name="internlm",
        models="InternLM chat, first generation",
        system="<|System|>:",
        meta_instruction=_INTERNLM + "\n",
        eosys="\n",
        user="<|User|>:",
        eoh="\n",
        assistant="<|Bot|>:",
        eoa="<eoa>",
        separator="\n",
        stop_words=("<eoa>",),
        control=("<eoa>",),
    ),
    chatml(
        "internlm2",
        "InternLM2, InternLM2.5 chat",
        meta_instruction=_INTERNLM,
        stop_words=("<|im_end|>", "<|action_end|>"),
    ),
    chatml(
        "internlm3",
        "InternLM3 instruct",
        meta_instruction=_INTERNLM,
        stop_words=("<|im_end|>", "<|action_end|>"),
    ),
    llama2("llama2", "Llama 2 chat"),
    llama2("codellama", "Code Llama; the one with chat.capability infilling and python"),
    llama3("llama3", "Llama 3 instruct"),
    llama3(
        "llama3_1",
        "Llama 3.1, 3.2, 3.3 instruct",
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
        system_always=True,
        stop_words=("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"),
    ),
    Format(
        name="mistral",
        models="Mistral and Mixtral instruct, up to 7B v0.2",
        bos="always",
        eosys="\n\n",
        system_inside=True,
        user="[INST] ",
        eoh=" [/INST]",
        eoa="</s>",
        alternates=True,
        stop_words=("</s>",),
        control=("</s>",),
    ),
    vicuna("vicuna", "Vicuna v1.1 to v1.5, WizardLM, mini-Gemini"),
    phi3("phi-3", "Phi-3, Phi-3.5"),
    Format(
        name="phi-4",
        models="Phi-4",
        system="<|im_start|>system<|im_sep|>",
        eosys="<|im_end|>",
        user="<|im_start|>user<|im_sep|>",
        eoh="<|im_end|>",
        assistant="<|im_start|>assistant<|im_sep|>",
        eoa="<|im_end|>",
        stop_words=("<|im_end|>", "<|endoftext|>"),
        control=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    ),
    Format(
        name="gemma",
        models="Gemma, Gemma 2, Gemma 3",
        bos="always",
        eosys="\n\n",
        system_inside=True,
        user="<start_of_turn>user\n",
        eoh="<end_of_turn>\n",
        assistant="<start_of_turn>model\n",
        eoa="<end_of_turn>\n",
        trim=("user", "assistant"),
        alternates=True,
        stop_words=("<end_of_turn>",),
        control=("<start_of_turn>", "<end_of_turn>"),
    ),
    deepseek("deepseek", "DeepSeek LLM chat, MoE chat, V2 chat"),
    Format(
        name="deepseek-coder",
        models="DeepSeek Coder instruct, first generation",
        bos="always",
        meta_instruction=_CODER,
        user="### Instruction:\n",
        eoh="\n",
        assistant="### Response:\n",
        eoa="\n<|EOT|>",
        separator="\n",
        stop_words=("<|EOT|>",),
        control=("<|EOT|>",),
    ),
    deepseek3("deepseek-v2.5", "DeepSeek V2.5, Coder V2.5"),
    deepseek3("deepseek-v3", "DeepSeek V3"),
    deepseek3(
        "deepseek-r1",
        "DeepSeek R1 and its distilled models; an answer begins inside <think>",
        generation="<｜Assistant｜><think>\n",
    ),
    glm4("glm4", "GLM-4 chat, GLM-4-0414"),
    glm4(
        "codegeex4",
        "CodeGeeX4",
        "你是一位智能编程助手，你叫CodeGeeX。你会为用户回答关于编程、代码、计算机方面的任何问题，"
        "并提供格式规范、可以执行、准确安全的代码，并在必要时提供详细的解释。",
    ),
    Format(
        name="chatglm3",
        models="ChatGLM3",
        prefix="[gMASK]sop",
        bos="never",
        system="<|system|>\n ",
        user="<|user|>\n ",
        assistant="<|assistant|>\n ",
        generation="<|assistant|>",
        stop_words=("<|user|>", "<|observation|>"),
        control=("<|user|>", "<|assistant|>"),
    ),
    Format(
        name="baichuan2",
        models="Baichuan2 chat",
        user="<reserved_106>",
        assistant="<reserved_107>",
        stop_words=("<reserved_106>",),
        control=("<reserved_106>", "<reserved_107>"),
    ),
    Format(
        name="solar",
        models="SOLAR-0, SOLAR 10.7B instruct",
        system="### System:\n",
        eosys="\n\n",
        user="### User:\n",
        eoh="\n\n",
        assistant="### Assistant:\n",
        stop_words=("### User:",),
    ),
    Format(
        name="zephyr",
        models="Zephyr, TinyLlama chat",
        system="<|system|>\n",
        eosys="</s>\n",
        user="<|user|>\n",
        eoh="</s>\n",
        assistant="<|assistant|>\n",
        eoa="</s>\n",
        stop_words=("</s>",),
        control=("</s>",),
    ),
    Format(
        name="openchat",
        models="OpenChat 3.5, Starling",
        bos="always",
        system="GPT4 Correct System: ",
        eosys="<|end_of_turn|>",
        user="GPT4 Correct User: ",
        eoh="<|end_of_turn|>",
        assistant="GPT4 Correct Assistant: ",
        generation="GPT4 Correct Assistant:",
        eoa="<|end_of_turn|>",
        stop_words=("<|end_of_turn|>",),
        control=("<|end_of_turn|>",),
    ),
    Format(
        name="command-r",
        models="Command R, Command R+",
        bos="always",
        system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>",
        eosys="<|END_OF_TURN_TOKEN|>",
        user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
        eoh="<|END_OF_TURN_TOKEN|>",
        assistant="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        eoa="<|END_OF_TURN_TOKEN|>",
        trim=("user", "assistant"),
        alternates=True,
        stop_words=("<|END_OF_TURN_TOKEN|>",),
        control=("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    ),
    Format(
        name="minicpm",
        models="MiniCPM 1B and 2B",
        user="<用户>",
        assistant="<AI>",
        trim=("user", "assistant"),
        stop_words=("<用户>",),
    ),
    Format(
        name="ultralm",
        models="UltraLM, UltraCM",
        system="User: ",
        meta_instruction="A one-turn chat between a curious user and an artificial intelligence assistant. The "
        "assistant gives helpful, very detailed, and polite answers to the user's questions.",
        eosys="</s>\n",
        user="User: ",
        eoh="</s>\n",
        assistant="Assistant: ",
        generation="Assistant:",
        eoa="</s>",
        separator="\n",
        stop_words=("</s>",),
        control=("</s>",),
    ),
)

BUILTINS: dict[str, Format] = {f.name: f for f in (*_TEXT, *VISION)}

# Other names of the same formats, most of them LMDeploy's.
ALIASES: dict[str, str] = {
    "base": COMPLETION,
    "qwen2.5": "qwen2d5",
    "qwen2_5": "qwen2d5",
    "minicpm3": "qwen",
    "minicpmv-2d6": "qwen",
    "smollm2": "chatml",
    "llama3.1": "llama3_1",
    "llama3_2": "llama3_1",
    "llama-2": "llama2",
    "llama-3": "llama3",
    "mixtral": "mistral",
    "wizardlm": "vicuna",
    "mini-gemini-vicuna": "vicuna",
    "phi3": "phi-3",
    "phi4": "phi-4",
    "deepseek-llm": "deepseek",
    "deepseek-v2": "deepseek",
    "deepseek_r1_distill": "deepseek-r1",
    "glm-4": "glm4",
    "ultracm": "ultralm",
    "tinyllama": "zephyr",
    "internvl-zh-hermes2": "llava-chatml",
}


def names() -> list[str]:
    """Every built-in's own name, `completion` last."""
    return [*BUILTINS, COMPLETION]


def builtin(name: str) -> Format:
    """The format of that name, or of the name that it is another one of. Raises ConfigError that names the nearest."""
    plain = name.strip().lower()
    found = BUILTINS.get(ALIASES.get(plain, plain))
    if found is None:
        raise unknown(name)
    return found


def unknown(name: str) -> ConfigError:
    """There is no template of that name."""
    near = difflib.get_close_matches(name.lower(), [*names(), *ALIASES], n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return ConfigError(
        f"there is no chat template called {name[:80]!r}",
        where="chat.template",
        why=f"the built-in ones are {', '.join(names())}",
        fix=f"{hint}a file is written with its ending or a slash, such as ./{name[:40].strip('/')}.jinja",
    )
