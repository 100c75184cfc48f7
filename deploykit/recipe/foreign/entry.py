"""What one setting of another server is here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Convert(NamedTuple):
    """How a value is carried over: in words, and as a function that gives None where there is no such value here."""

    words: str
    apply: Callable[[Any], Any] | None = None


class Foreign(NamedTuple):
    """One name of another server.

    `here` is the recipe's key, or None; `note` then says why there is none (it reads on after "here"), and else what
    differs in meaning. `theirs` is the default that its documentation gives, and `why` says why ours is another one.
    """

    name: str
    owner: str
    here: str | None
    theirs: str = ""
    note: str = ""
    convert: Convert = Convert("as it is")
    why: str = ""

    @property
    def is_synonym(self) -> bool:
        """The same meaning and the same values: renaming the key is all there is to do."""
        return self.here is not None and self.convert is SAME


def _mapped(values: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda value: values.get(str(value).lower())


def _opposite(value: Any) -> Any:
    return (not value) if isinstance(value, bool) else None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value if isinstance(value, list) else None


SAME = Convert("as it is", lambda value: value)
NEAR = Convert("the same number, with the difference told here")
OTHER = Convert("no exact value")
OPPOSITE = Convert("the opposite: `true` becomes `false`", _opposite)
LISTED = Convert("a list: `[name]`", _listed)
SECRET = Convert("the place that holds it: `[{env: NAME}]`")
KV = Convert(
    "`auto` becomes `none`, every `fp8` becomes `fp8`; `int8` and `int4` are more",
    _mapped(
        {
            **dict.fromkeys(("auto", "bf16", "bfloat16", "fp16", "float16", "f16", "f32"), "none"),
            **dict.fromkeys(("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_e4m3fn"), "fp8"),
            "q8_0": "int8",
            "q4_0": "int4",
        }
    ),
)
FORMAT = Convert(
    "`awq_marlin` becomes `awq`, `gptq_marlin` becomes `gptq`; the rest as it is, where it is one of ours",
    _mapped(
        {
            **{
                f: f
                for f in ("hf", "awq", "gptq", "fp8", "compressed-tensors", "mxfp4", "gguf", "bitsandbytes")
            },
            "awq_marlin": "awq",
            "gptq_marlin": "gptq",
        }
    ),
)
DTYPE = Convert(
    "`half` becomes `float16`, `float` becomes `float32`; the rest as it is",
    _mapped(
        {
            **{dtype: dtype for dtype in ("auto", "bfloat16", "float16", "float32")},
            **dict.fromkeys(("half", "fp16"), "float16"),
            **dict.fromkeys(("float", "fp32"), "float32"),
            "bf16": "bfloat16",
        }
    ),
)
LEVEL = Convert(
    "in small letters; `trace` becomes `debug`, `critical` becomes `error`",
    _mapped(
        {
            **{level: level for level in ("debug", "info", "warning", "error")},
            "trace": "debug",
            "critical": "error",
            "warn": "warning",
        }
    ),
)

# What is said of several tools' settings, once.
REMOTE_CODE = "code from a checkpoint is never run"
CORS = "no CORS header is sent: a page of another site can't use the endpoint"
TLS = "the endpoint speaks plain HTTP: put a proxy with a certificate before it"
ONE_SPLIT = "a model is split by `tp` alone"
NODES = "a deployment is on one machine"
LORA = "adapters (LoRA) are not served, by no engine of this version: merge them into the weights"
GRAPHS = "the engine decides by itself what it records as a CUDA graph"
KERNELS = "kernels are picked by the device and the shapes, and there is no choice to make"
SPECULATION = "there is no speculative decoding"
TOOLS = "tool calls and reasoning are not parsed: requests with `tools` are refused"
VISION = "images are not served, by no engine of this version, and none is ever fetched from an address"
OFFLOAD = "KV memory and weights are wholly on `engine.device`, and no engine keeps blocks of it on the CPU"
METRICS = "`/metrics` is always there"
QUIET = "prompts and answers are never logged, and requests have one line each"
CONFIG = "a checkpoint's config.json is taken as it is"
TOKENIZER = "the tokenizer is the checkpoint's own, in this process: there is nothing to set"
CHUNKED = "prefill is always chunked, by `engine.max_prefill_tokens`"
PROMPT_TOKENS = "prompt tokens of one step; `engine.max_step_tokens` counts those of rows that decode too"
SCHEDULE = "requests run in the order they come, and there is no policy to choose"
CACHE_DIR = "the cache's folder is the environment variable DEPLOYKIT_CACHE"
REQUEST = "a request says it, or nobody does"
GENERATION_CONFIG = "`chat.defaults` lies over the checkpoint's generation_config.json, key by key"
HUB_LOGIN = "a token is the environment variable HF_TOKEN, never written into a recipe"
FROM_FILES = "a model is read from safetensors or GGUF, whichever the files are"
SPLIT = "prefill and decode run in one engine"

# Why a default of ours is another one.
BY_MACHINE = "planned from the machine and the memory: `deploykit plan` shows the number and the reason"
LEN = "`auto` is the length that the model was trained for, and less where no more fits: `deploykit plan` says which"
PREFIX = "on by default: it saves the prefill of prompts that start alike and costs others nothing"
HOST = "loopback: other machines reach it only if you say so, and then `server.api_keys` is required"
PORT = "23333, so that clients written for LMDeploy's port find it"
BLOCK = "64: less bookkeeping a token, and what quantized KV and the GPU kernels are laid out for"
RATIO = (
    "weights, activations and runtime are counted in bytes first, so that ours is a share of what they leave"
)
QUEUE = "bounded, so that a burst is told to come again (429) in place of waiting for minutes"
