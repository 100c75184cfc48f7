"""What other servers, and habit, write as the value of one of our keys."""

from __future__ import annotations

_OFF = dict.fromkeys(("off", "no", "false", "fp16", "bf16", "f16", "auto", "disabled"), "none")

FOREIGN_VALUES: dict[str, dict[str, str]] = {
    "engine.cache.quant_policy": {
        **_OFF,
        "fp8_e4m3": "fp8",
        "fp8_e5m2": "fp8",
        "8bit": "int8",
        "q8_0": "int8",
        "4bit": "int4",
        "q4_0": "int4",
        "8": "int8",
        "4": "int4",
        "0": "none",
        "16": "fp8",
        "17": "fp8",
    },
    "engine.lm_head_dtype": {
        **dict.fromkeys(("none", "off", "no", "false", "bf16", "bfloat16", "fp16", "float16"), "auto"),
        "8bit": "int8",
        "q8_0": "int8",
        "8": "int8",
    },
    "engine.backend": {
        "turbomind": "native",
        "c++": "native",
        "cpp": "native",
        "torch": "pytorch",
        "pt": "pytorch",
        "transformers": "pytorch",
    },
    "engine.device": {"gpu": "cuda", "nvidia": "cuda", "cuda:0": "cuda", "x86": "cpu"},
    "model.format": {
        "awq_marlin": "awq",
        "gptq_marlin": "gptq",
        "safetensors": "hf",
        "none": "auto",
        "bnb": "bitsandbytes",
    },
    "model.dtype": {
        "bf16": "bfloat16",
        "fp16": "float16",
        "half": "float16",
        "f16": "float16",
        "fp32": "float32",
        "f32": "float32",
        "float": "float32",
    },
    "server.log_level": {"warn": "warning", "trace": "debug", "err": "error", "critical": "error"},
}
