"""The chat templates of models that also see: what they make of text."""

from __future__ import annotations

from deploykit.prompt.templates.families import DEEPSEEK_EOS, VICUNA, chatml, deepseek, phi3, vicuna
from deploykit.prompt.templates.format import Format

_INTERNVL = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_TIGHT = {"eosys": "<|im_end|>", "eoh": "<|im_end|>", "separator": ""}  # no newline between turns
_YI_VL = (
    "This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. Read all "
    "the images carefully, and respond to the human's questions with informative, helpful, detailed and polite "
    "answers. "
    "这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。"
    "仔细阅读所有的图像，并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。\n\n"
)


def _cogvlm(name: str, models: str, end: str) -> Format:
    return Format(
        name=name,
        models=models,
        user="Question: ",
        eoh=" ",
        assistant="Answer: ",
        generation="Answer:",
        eoa=end,
        separator="\n",
        stop_words=(end,),
        control=(end,),
    )


VISION = (
    vicuna(
        "llava-v1",
        "LLaVA v1, v1.5",
        VICUNA.replace("curious user", "curious human").replace("the user's", "the human's"),
    ),
    deepseek(
        "deepseek-vl",
        "DeepSeek-VL chat",
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language.",
    ),
    chatml(
        "internvl-internlm2",
        "InternVL Chat V1.5",
        meta_instruction="You are an AI assistant whose name is InternLM (书生·浦语).",
    ),
    chatml("internvl2-internlm2", "InternVL2 with InternLM2 or Qwen2", meta_instruction=_INTERNVL, **_TIGHT),
    chatml(
        "internvl2_5",
        "InternVL 2.5",
        meta_instruction="你是书生·万象，英文名是InternVL，"
        "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
    ),
    phi3("internvl2-phi3", "InternVL2-4B", meta_instruction=_INTERNVL),
    chatml(
        "llava-chatml",
        "LLaVA v1.6 34B, InternVL Chat V1.2",
        meta_instruction="Answer the questions.",
        **_TIGHT,
    ),
    _cogvlm("cogvlm", "CogVLM", "</s>"),
    _cogvlm("cogvlm2", "CogVLM2", "<|end_of_text|>"),
    phi3(
        "internvl-phi3",
        "Mini-InternVL Chat 4B V1.5",
        meta_instruction="You are an AI assistant whose name is Phi-3.",
        eosys="<|end|>",
        eoh="<|end|>",
        eoa="<|end|>",
    ),
    Format(
        name="internvl-zh",
        models="InternVL Chat V1.1",
        user="<human>: ",
        eoh=" ",
        assistant="<bot>: ",
        generation="<bot>:",
        eoa="</s>",
        stop_words=("</s>",),
        control=("</s>",),
    ),
    Format(
        name="deepseek-vl2",
        models="DeepSeek-VL2",
        bos="always",
        user="<|User|>: ",
        eoh="\n\n",
        assistant="<|Assistant|>: ",
        generation="<|Assistant|>:",
        eoa=DEEPSEEK_EOS,
        stop_words=(DEEPSEEK_EOS,),
        control=("<|User|>", "<|Assistant|>", DEEPSEEK_EOS),
    ),
    Format(
        name="yi-vl",
        models="Yi-VL",
        meta_instruction=_YI_VL,
        user="### Human: ",
        eoh="\n",
        assistant="### Assistant:",
        eoa="\n",
        stop_words=("###",),
    ),
)
