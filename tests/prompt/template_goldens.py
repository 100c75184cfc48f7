"""What each built-in chat template makes of two conversations, written from the models' published formats."""

from __future__ import annotations

# system S, user U1, assistant A1, user U2; BOS is `<s>`, and the tokenizer is one that puts it before text
WHOLE = {
    "chatml": "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n"
    "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
    "internlm": "<s><|System|>:S\n<|User|>:U1\n<|Bot|>:A1<eoa>\n<|User|>:U2\n<|Bot|>:",
    "llama2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1 </s><s>[INST] U2 [/INST]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama3_1": "<s><|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] S\n\nU1 [/INST]A1</s>[INST] U2 [/INST]",
    "vicuna": "<s>S USER: U1 ASSISTANT: A1</s>USER: U2 ASSISTANT:",
    "phi-3": "<s><|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n"
    "<|user|>\nU2<|end|>\n<|assistant|>\n",
    "phi-4": "<s><|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>U1<|im_end|>"
    "<|im_start|>assistant<|im_sep|>A1<|im_end|><|im_start|>user<|im_sep|>U2<|im_end|>"
    "<|im_start|>assistant<|im_sep|>",
    "gemma": "<s><start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
    "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n",
    "deepseek": "<s>S\n\nUser: U1\n\nAssistant: A1<｜end▁of▁sentence｜>User: U2\n\nAssistant:",
    "deepseek-coder": "<s>S### Instruction:\nU1\n### Response:\nA1\n<|EOT|>\n"
    "### Instruction:\nU2\n### Response:\n",
    "deepseek-v3": "<s>S<｜User｜>U1<｜Assistant｜>A1<｜end▁of▁sentence｜><｜User｜>U2<｜Assistant｜>",
    "deepseek-r1": "<s>S<｜User｜>U1<｜Assistant｜>A1<｜end▁of▁sentence｜><｜User｜>U2<｜Assistant｜><think>\n",
    "glm4": "[gMASK]<sop><|system|>\nS<|user|>\nU1<|assistant|>\nA1<|user|>\nU2<|assistant|>\n",
    "chatglm3": "[gMASK]sop<|system|>\n S<|user|>\n U1<|assistant|>\n A1<|user|>\n U2<|assistant|>",
    "baichuan2": "<s>S<reserved_106>U1<reserved_107>A1<reserved_106>U2<reserved_107>",
    "solar": "<s>### System:\nS\n\n### User:\nU1\n\n### Assistant:\nA1### User:\nU2\n\n### Assistant:\n",
    "zephyr": "<s><|system|>\nS</s>\n<|user|>\nU1</s>\n<|assistant|>\nA1</s>\n<|user|>\nU2</s>\n<|assistant|>\n",
    "openchat": "<s>GPT4 Correct System: S<|end_of_turn|>GPT4 Correct User: U1<|end_of_turn|>"
    "GPT4 Correct Assistant: A1<|end_of_turn|>GPT4 Correct User: U2<|end_of_turn|>GPT4 Correct Assistant:",
    "command-r": "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>U1<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A1<|END_OF_TURN_TOKEN|>"
    "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>U2<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "minicpm": "<s>S<用户>U1<AI>A1<用户>U2<AI>",
    "ultralm": "<s>User: S</s>\nUser: U1</s>\nAssistant: A1</s>\nUser: U2</s>\nAssistant:",
    "qwq": "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
    "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "cogvlm2": "<s>SQuestion: U1 Answer: A1<|end_of_text|>\nQuestion: U2 Answer:",
    "internvl-phi3": "<s><|system|>\nS<|end|><|user|>\nU1<|end|><|assistant|>\nA1<|end|><|user|>\nU2<|end|>"
    "<|assistant|>\n",
    "internvl-zh": "<s>S<human>: U1 <bot>: A1</s><human>: U2 <bot>:",
    "deepseek-vl2": "<s>S<|User|>: U1\n\n<|Assistant|>: A1<｜end▁of▁sentence｜><|User|>: U2\n\n<|Assistant|>:",
    "yi-vl": "<s>S### Human: U1\n### Assistant:A1\n### Human: U2\n### Assistant:",
    "cogvlm": "<s>SQuestion: U1 Answer: A1</s>\nQuestion: U2 Answer:",
    "llava-chatml": "<s><|im_start|>system\nS<|im_end|><|im_start|>user\nU1<|im_end|>"
    "<|im_start|>assistant\nA1<|im_end|><|im_start|>user\nU2<|im_end|><|im_start|>assistant\n",
}
WHOLE |= {
    name: WHOLE[like]
    for name, like in {
        "qwen": "chatml",
        "qwen2d5": "chatml",
        "yi": "chatml",
        "internlm2": "chatml",
        "internlm3": "chatml",
        "internvl-internlm2": "chatml",
        "internvl2_5": "chatml",
        "internvl2-internlm2": "llava-chatml",
        "internvl2-phi3": "phi-3",
        "codellama": "llama2",
        "llava-v1": "vicuna",
        "deepseek-vl": "deepseek",
        "deepseek-v2.5": "deepseek-v3",
        "codegeex4": "glm4",
    }.items()
}

_INTERNLM = (
    "You are an AI assistant whose name is InternLM (书生·浦语).\n"
    "- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory "
    "(上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n"
    "- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such as "
    "English and 中文."
)

# One user message `U`, with no system message and no BOS: what a format says by itself.
ALONE = {
    "chatml": "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
    "yi": "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
    "qwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
    "qwen2d5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n",
    "internlm": f"<|System|>:{_INTERNLM}\n\n<|User|>:U\n<|Bot|>:",
    "internlm2": f"<|im_start|>system\n{_INTERNLM}<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama2": "[INST] U [/INST]",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama3_1": "<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "[INST] U [/INST]",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: U ASSISTANT:",
    "llava-v1": "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions. USER: U ASSISTANT:",
    "phi-3": "<|user|>\nU<|end|>\n<|assistant|>\n",
    "gemma": "<start_of_turn>user\nU<end_of_turn>\n<start_of_turn>model\n",
    "deepseek": "User: U\n\nAssistant:",
    "deepseek-coder": "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by "
    "Deepseek Company, and you only answer questions related to computer science. For politically sensitive "
    "questions, security and privacy issues, and other non-computer science questions, you will refuse to answer\n"
    "### Instruction:\nU\n### Response:\n",
    "deepseek-v3": "<｜User｜>U<｜Assistant｜>",
    "glm4": "[gMASK]<sop><|user|>\nU<|assistant|>\n",
    "chatglm3": "[gMASK]sop<|user|>\n U<|assistant|>",
    "baichuan2": "<reserved_106>U<reserved_107>",
    "solar": "### User:\nU\n\n### Assistant:\n",
    "zephyr": "<|user|>\nU</s>\n<|assistant|>\n",
}
