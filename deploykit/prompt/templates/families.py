"""Formats that several built-ins share, with what differs between them as arguments."""

from __future__ import annotations

from deploykit.prompt.templates.format import Format

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
DEEPSEEK_EOS = "<｜end▁of▁sentence｜>"


def chatml(name: str, models: str, **changes: object) -> Format:
    given: dict[str, object] = {
        "system": "<|im_start|>system\n",
        "eosys": "<|im_end|>\n",
        "user": "<|im_start|>user\n",
        "eoh": "<|im_end|>\n",
        "assistant": "<|im_start|>assistant\n",
        "eoa": "<|im_end|>",
        "separator": "\n",
        "stop_words": ("<|im_end|>",),
        "control": ("<|im_start|>", "<|im_end|>"),
    }
    return Format(name=name, models=models, **{**given, **changes})  # type: ignore[arg-type]


def llama2(name: str, models: str) -> Format:
    return Format(
        name=name,
        models=models,
        bos="always",
        system="<<SYS>>\n",
        eosys="\n<</SYS>>\n\n",
        system_inside=True,
        user="[INST] ",
        eoh=" [/INST]",
        assistant=" ",
        generation="",
        eoa=" </s>",
        separator="<s>",
        trim=("user", "assistant"),
        trim_joined=True,
        alternates=True,
        stop_words=("</s>",),
        control=("<s>", "</s>"),
    )


def llama3(name: str, models: str, system: str = "", **changes: object) -> Format:
    given: dict[str, object] = {
        "bos": "always",
        "system": f"<|start_header_id|>system<|end_header_id|>\n\n{system}",
        "eosys": "<|eot_id|>",
        "user": "<|start_header_id|>user<|end_header_id|>\n\n",
        "eoh": "<|eot_id|>",
        "assistant": "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "eoa": "<|eot_id|>",
        "trim": ("system", "user", "assistant"),
        "stop_words": ("<|eot_id|>", "<|end_of_text|>"),
        "control": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    }
    return Format(name=name, models=models, **{**given, **changes})  # type: ignore[arg-type]


def vicuna(name: str, models: str, meta: str | None = VICUNA) -> Format:
    return Format(
        name=name,
        models=models,
        meta_instruction=meta,
        eosys=" ",
        user="USER: ",
        eoh=" ",
        assistant="ASSISTANT: ",
        generation="ASSISTANT:",  # a space here would be a token of its own
        eoa="</s>",
        stop_words=("</s>",),
        control=("</s>",),
    )


def phi3(name: str, models: str, **changes: object) -> Format:
    given: dict[str, object] = {
        "system": "<|system|>\n",
        "eosys": "<|end|>\n",
        "user": "<|user|>\n",
        "eoh": "<|end|>\n",
        "assistant": "<|assistant|>\n",
        "eoa": "<|end|>\n",
        "stop_words": ("<|end|>", "<|endoftext|>"),
        "control": ("<|user|>", "<|end|>", "<|assistant|>"),
    }
    return Format(name=name, models=models, **{**given, **changes})  # type: ignore[arg-type]


def deepseek(name: str, models: str, meta: str | None = None) -> Format:
    return Format(
        name=name,
        models=models,
        bos="always",
        meta_instruction=meta,
        eosys="\n\n",
        user="User: ",
        eoh="\n\n",
        assistant="Assistant: ",
        generation="Assistant:",
        eoa=DEEPSEEK_EOS,
        stop_words=(DEEPSEEK_EOS,),
        control=(DEEPSEEK_EOS,),
    )


def deepseek3(name: str, models: str, **changes: object) -> Format:
    given: dict[str, object] = {
        "bos": "always",
        "user": "<｜User｜>",
        "assistant": "<｜Assistant｜>",
        "eoa": DEEPSEEK_EOS,
        "stop_words": (DEEPSEEK_EOS,),
        "control": ("<｜User｜>", "<｜Assistant｜>", DEEPSEEK_EOS),
    }
    return Format(name=name, models=models, **{**given, **changes})  # type: ignore[arg-type]


def glm4(name: str, models: str, meta: str | None = None) -> Format:
    return Format(
        name=name,
        models=models,
        prefix="[gMASK]<sop>",
        bos="never",
        meta_instruction=meta,
        system="<|system|>\n",
        user="<|user|>\n",
        assistant="<|assistant|>\n",
        stop_words=("<|user|>", "<|endoftext|>", "<|observation|>"),
        control=("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
    )
