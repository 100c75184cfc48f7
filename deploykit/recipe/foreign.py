"""What other servers call the things that a recipe sets, and how they write the values."""

from __future__ import annotations

from typing import NamedTuple


class Foreign(NamedTuple):
    """`owner`'s name; `here` is our key. A name with no key here says why in `note`."""

    owner: str
    here: str | None
    note: str = ""


_RATIO = "there a share of all GPU memory, here of what the weights leave free"
_FORMAT = "the weight format is read from the checkpoint"
_REMOTE_CODE = "code from a checkpoint is never run"

FOREIGN_KEYS: dict[str, Foreign] = {
    # vLLM
    "gpu_memory_utilization": Foreign("vLLM", "engine.cache.ratio", _RATIO),
    "max_model_len": Foreign("vLLM", "engine.session_len"),
    "tensor_parallel_size": Foreign("vLLM", "engine.tp"),
    "max_num_seqs": Foreign("vLLM", "engine.max_batch_size"),
    "max_num_batched_tokens": Foreign("vLLM", "engine.max_prefill_tokens"),
    "block_size": Foreign("vLLM", "engine.cache.block_len"),
    "kv_cache_dtype": Foreign("vLLM", "engine.cache.quant_policy"),
    "num_gpu_blocks_override": Foreign("vLLM", "engine.cache.blocks"),
    "served_model_name": Foreign("vLLM", "server.model_names", "a list"),
    "uvicorn_log_level": Foreign("vLLM", "server.log_level"),
    "trust_remote_code": Foreign("Transformers", None, _REMOTE_CODE),
    "quantization": Foreign("vLLM", None, _FORMAT),
    "enable_chunked_prefill": Foreign("vLLM", None, "prefill is always chunked"),
    # LMDeploy
    "cache_max_entry_count": Foreign("LMDeploy", "engine.cache.ratio"),
    "cache_block_seq_len": Foreign("LMDeploy", "engine.cache.block_len"),
    "max_prefill_token_num": Foreign("LMDeploy", "engine.max_prefill_tokens"),
    "num_tokens_per_iter": Foreign("LMDeploy", "engine.max_prefill_tokens"),
    "enable_prefix_caching": Foreign("LMDeploy", "engine.cache.prefix_caching"),
    "model_format": Foreign("LMDeploy", None, _FORMAT),
    "server_name": Foreign("LMDeploy", "server.host"),
    "server_port": Foreign("LMDeploy", "server.port"),
    "model_name": Foreign("LMDeploy", "server.model_names", "a list"),
    "device_type": Foreign("LMDeploy", "engine.device"),
    # SGLang
    "mem_fraction_static": Foreign("SGLang", "engine.cache.ratio", _RATIO),
    "tp_size": Foreign("SGLang", "engine.tp"),
    "context_length": Foreign("SGLang", "engine.session_len"),
    "max_running_requests": Foreign("SGLang", "engine.max_batch_size"),
    "chunked_prefill_size": Foreign("SGLang", "engine.max_prefill_tokens"),
    "page_size": Foreign("SGLang", "engine.cache.block_len"),
    "disable_radix_cache": Foreign("SGLang", "engine.cache.prefix_caching", "with the opposite meaning"),
    "model_path": Foreign("SGLang", "model.path", "or `model.id` for a Hugging Face id"),
    # Ollama and llama.cpp
    "num_ctx": Foreign("Ollama", "engine.session_len"),
    "num_predict": Foreign("Ollama", "chat.defaults.max_tokens"),
    "num_thread": Foreign("Ollama", "engine.threads"),
    "repeat_penalty": Foreign("Ollama", "chat.defaults.repetition_penalty"),
    "n_ctx": Foreign("llama.cpp", "engine.session_len"),
    "ctx_size": Foreign("llama.cpp", "engine.session_len"),
    "n_predict": Foreign("llama.cpp", "chat.defaults.max_tokens"),
    "n_threads": Foreign("llama.cpp", "engine.threads"),
    "n_parallel": Foreign("llama.cpp", "engine.max_batch_size"),
    "cache_type_k": Foreign("llama.cpp", "engine.cache.quant_policy"),
    "cache_type_v": Foreign("llama.cpp", "engine.cache.quant_policy"),
    "n_gpu_layers": Foreign("llama.cpp", None, "a model is wholly on `engine.device`"),
    # TGI, Transformers, and plain English
    "num_shard": Foreign("TGI", "engine.tp"),
    "max_concurrent_requests": Foreign("TGI", "engine.max_batch_size", "and `server.limits.max_queue`"),
    "max_batch_prefill_tokens": Foreign("TGI", "engine.max_prefill_tokens"),
    "model_id": Foreign("TGI", "model.id"),
    "torch_dtype": Foreign("Transformers", "model.dtype"),
    "max_new_tokens": Foreign("Transformers", "chat.defaults.max_tokens"),
    "repo_id": Foreign("Hugging Face", "model.id"),
    "chat_template": Foreign("vLLM", "chat.template"),
    "system_prompt": Foreign("other servers", "chat.system"),
    "api_key": Foreign("other servers", "server.api_keys", "a list of `{env: NAME}` or `{file: PATH}`"),
    "max_seq_len": Foreign("other servers", "engine.session_len"),
    "max_context_length": Foreign("other servers", "engine.session_len"),
    "timeout": Foreign("other servers", "server.limits.request_timeout"),
}

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
