"""Recipes with one mistake each: the right code, the right place, and the right way out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from deploykit.recipe import RecipeError, check_files, load_recipe

HEAD = "version: 1\nmodel: {id: a/b}\n"  # lines 1 and 2 of most cases


class Case(NamedTuple):
    name: str
    text: str | bytes
    code: str
    line: int | None
    col: int | None
    help: str | None  # a part of the help; None where the message says it all


def engine(line: str) -> str:
    return f"{HEAD}engine:\n  {line}\n"  # the line is number 4


def cache(line: str) -> str:
    return f"{HEAD}engine:\n  cache:\n    {line}\n"  # number 5


def server(line: str) -> str:
    return f"{HEAD}server:\n  {line}\n"


def chat(line: str) -> str:
    return f"{HEAD}chat:\n  defaults:\n    {line}\n"


def source(*lines: str) -> str:
    body = "\n      ".join(lines)
    return (
        f"version: 1\nmodel:\n  sources:\n    - {body}\n"  # the first line is number 4, its key in column 7
    )


SHA = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CASES = [
    # unknown keys: typing mistakes, keys in the wrong section, other servers' names
    Case("typo-at-top", HEAD + "engin: {tp: 1}\n", "unknown-key", 3, 1, "did you mean `engine`?"),
    Case("typo-in-section", engine("sesion_len: 2048"), "unknown-key", 4, 3, "did you mean `session_len`?"),
    Case("typo-deep", cache("bloc_len: 64"), "unknown-key", 5, 5, "did you mean `block_len`?"),
    Case(
        "typo-in-flow",
        "version: 1\nmodel: {id: a/b, dtyp: auto}\n",
        "unknown-key",
        2,
        18,
        "did you mean `dtype`?",
    ),
    Case("dashes", engine("session-len: 2048"), "unknown-key", 4, 3, "write it `session_len`"),
    Case("camel-case", engine("maxBatchSize: 4"), "unknown-key", 4, 3, "write it `max_batch_size`"),
    Case("upper-case", HEAD + "Server: {}\n", "unknown-key", 3, 1, "write it `server`"),
    Case("key-belongs-deeper", engine("ratio: 0.5"), "unknown-key", 4, 3, "move it to `engine.cache.ratio`"),
    Case("key-belongs-elsewhere", HEAD + "tp: 2\n", "unknown-key", 3, 1, "move it to `engine.tp`"),
    Case("key-belongs-outside", engine("version: 1"), "unknown-key", 4, 3, "belongs at the top level"),
    Case(
        "key-of-an-entry",
        "version: 1\nmodel: {id: a/b, sha256: x}\n",
        "unknown-key",
        2,
        18,
        "`model.sources`",
    ),
    Case(
        "typo-elsewhere", engine("blok_len: 64"), "unknown-key", 4, 3, "move it to `engine.cache.block_len`"
    ),
    Case("vllm-memory", engine("gpu_memory_utilization: 0.9"), "unknown-key", 4, 3, "`engine.cache.ratio`"),
    Case(
        "vllm-length",
        engine("max_model_len: 4096"),
        "unknown-key",
        4,
        3,
        "is vLLM's name for it; here it is `engine.sess",
    ),
    Case("vllm-length-dashed", HEAD + "max-model-len: 4096\n", "unknown-key", 3, 1, "`engine.session_len`"),
    Case("vllm-parallel", engine("tensor_parallel_size: 2"), "unknown-key", 4, 3, "`engine.tp`"),
    Case("lmdeploy-memory", cache("cache_max_entry_count: 0.8"), "unknown-key", 5, 5, "LMDeploy's name"),
    Case("sglang-memory", engine("mem_fraction_static: 0.8"), "unknown-key", 4, 3, "SGLang's name"),
    Case("ollama-length", HEAD + "num_ctx: 4096\n", "unknown-key", 3, 1, "`engine.session_len`"),
    Case("remote-code", engine("trust_remote_code: true"), "unknown-key", 4, 3, "never run: remove the key"),
    Case(
        "nothing-like-it",
        engine("zzz: 1"),
        "unknown-key",
        4,
        3,
        "the keys of `engine` are: backend, device, tp",
    ),
    # other servers' names: where the key is here, and what its value becomes
    Case("vllm-batch", engine("max_num_seqs: 8"), "unknown-key", 4, 3, "here it is `engine.max_batch_size`"),
    Case("vllm-tokens", engine("max_num_batched_tokens: 8"), "unknown-key", 4, 3, "`engine.max_step_tokens`"),
    Case("vllm-eager", engine("enforce_eager: true"), "unknown-key", 4, 3, "CUDA graph: remove the key"),
    Case("vllm-kv", cache("kv_cache_dtype: fp8_e4m3"), "unknown-key", 5, 5, "write `quant_policy: fp8`"),
    Case("vllm-kv-auto", cache("kv_cache_dtype: auto"), "unknown-key", 5, 5, "write `quant_policy: none`"),
    Case("vllm-quantization", engine("quantization: awq_marlin"), "unknown-key", 4, 3, "write `format: awq`"),
    Case(
        "vllm-name", server("served_model_name: small"), "unknown-key", 4, 3, 'write `model_names: ["small"]`'
    ),
    Case(
        "vllm-swap", engine("swap_space: 4"), "unknown-key", 4, 3, "blocks of it on the CPU: remove the key"
    ),
    Case(
        "vllm-pipeline",
        engine("pipeline_parallel_size: 2"),
        "unknown-key",
        4,
        3,
        "vLLM and SGLang; here a model is",
    ),
    Case("vllm-cors", server('allowed_origins: ["*"]'), "unknown-key", 4, 3, "no CORS header is sent"),
    Case(
        "vllm-tls",
        server("ssl_keyfile: k.pem"),
        "unknown-key",
        4,
        3,
        "proxy with a certificate before it; remove",
    ),
    Case(
        "vllm-lora", engine("enable_lora: true"), "unknown-key", 4, 3, "merge them into the weights; remove"
    ),
    Case(
        "vllm-speculation", engine("speculative_config: {}"), "unknown-key", 4, 3, "no speculative decoding"
    ),
    Case(
        "vllm-misspelt",
        engine("gpu_memory_utilisation: 0.9"),
        "unknown-key",
        4,
        3,
        "`gpu_memory_utilization` is vLLM's",
    ),
    Case("lmdeploy-format", engine("model_format: awq"), "unknown-key", 4, 3, "here it is `model.format`"),
    Case("lmdeploy-block", cache("cache_block_seq_len: 64"), "unknown-key", 5, 5, "`engine.cache.block_len`"),
    Case(
        "lmdeploy-step",
        engine("num_tokens_per_iter: 0"),
        "unknown-key",
        4,
        3,
        "write `max_step_tokens: auto`",
    ),
    Case(
        "lmdeploy-iters", engine("max_prefill_iters: 2"), "unknown-key", 4, 3, "`engine.max_prefill_chunks`"
    ),
    Case("lmdeploy-logn", cache("use_logn_attn: true"), "unknown-key", 5, 5, "`engine.use_logn_attn`"),
    Case(
        "lmdeploy-blocks",
        cache("num_gpu_blocks: 900"),
        "unknown-key",
        5,
        5,
        "here it is `engine.cache.blocks`",
    ),
    Case("lmdeploy-cpu-blocks", cache("num_cpu_blocks: 9"), "unknown-key", 5, 5, "wholly on `engine.device`"),
    Case("lmdeploy-device", engine("device_type: cuda"), "unknown-key", 4, 3, "here it is `engine.device`"),
    Case(
        "lmdeploy-quant-here", engine("quant_policy: 8"), "unknown-key", 4, 3, "`engine.cache.quant_policy`"
    ),
    Case(
        "lmdeploy-rope-here",
        HEAD + "rope_scaling_factor: 2.0\n",
        "unknown-key",
        3,
        1,
        "`engine.rope_scaling_factor`",
    ),
    Case(
        "lmdeploy-session-here",
        HEAD + "session_len: 9\n",
        "unknown-key",
        3,
        1,
        "move it to `engine.session_len`",
    ),
    Case("lmdeploy-address", server("server_name: 0.0.0.0"), "unknown-key", 4, 3, "here it is `server.host`"),
    Case("lmdeploy-vision", engine("vision_max_batch_size: 1"), "unknown-key", 4, 3, "none is ever fetched"),
    Case("sglang-length", engine("context_length: 4096"), "unknown-key", 4, 3, "SGLang's name for it"),
    Case("sglang-parallel", engine("tp_size: 2"), "unknown-key", 4, 3, "here it is `engine.tp`"),
    Case(
        "sglang-radix",
        cache("disable_radix_cache: true"),
        "unknown-key",
        5,
        5,
        "write `prefix_caching: false`",
    ),
    Case(
        "sglang-chunks",
        engine("chunked_prefill_size: 512"),
        "unknown-key",
        4,
        3,
        "`engine.max_prefill_tokens`",
    ),
    Case("sglang-policy", engine("schedule_policy: lpm"), "unknown-key", 4, 3, "in the order they come"),
    Case(
        "two-servers-two-meanings",
        engine("max_total_tokens: 1"),
        "unknown-key",
        4,
        3,
        "means different things",
    ),
    Case(
        "ollama-predict",
        chat("num_predict: 42"),
        "unknown-key",
        5,
        5,
        "here it is `chat.defaults.max_tokens`",
    ),
    Case(
        "ollama-penalty",
        chat("repeat_penalty: 1.1"),
        "unknown-key",
        5,
        5,
        "`chat.defaults.repetition_penalty`",
    ),
    Case("ollama-window", chat("repeat_last_n: 64"), "unknown-key", 5, 5, "the whole of prompt and answer"),
    Case("ollama-from", HEAD + "FROM: llama3.2\n", "unknown-key", 3, 1, "here it is `model.path`"),
    Case("ollama-gpu", engine("num_gpu: 1"), "unknown-key", 4, 3, "wholly on `engine.device`"),
    Case("llamacpp-kv", cache("cache_type_k: q8_0"), "unknown-key", 5, 5, "write `quant_policy: int8`"),
    Case("llamacpp-layers", engine("n_gpu_layers: 99"), "unknown-key", 4, 3, "wholly on `engine.device`"),
    Case(
        "tgi-model",
        "version: 1\nmodel: {id: a/b, model_id: c/d}\n",
        "unknown-key",
        2,
        18,
        "TGI's name for it",
    ),
    Case("tgi-shards", engine("num_shard: 2"), "unknown-key", 4, 3, "here it is `engine.tp`"),
    Case(
        "tgi-memory",
        engine("cuda_memory_fraction: 0.5"),
        "unknown-key",
        4,
        3,
        "of what the weights leave free",
    ),
    Case(
        "tgi-payload",
        server("limits: {payload_limit: 2000000}"),
        "unknown-key",
        4,
        12,
        "`server.limits.max_body`",
    ),
    Case("tgi-queue", server("max_concurrent_requests: 9"), "unknown-key", 4, 3, "`server.limits.max_queue`"),
    Case(
        "transformers-dtype",
        "version: 1\nmodel: {id: a/b, torch_dtype: half}\n",
        "unknown-key",
        2,
        18,
        "write `dtype: float16`",
    ),
    Case(
        "api-key-by-its-name",
        server("api_key: sk-12345"),
        "unknown-key",
        4,
        3,
        "`server.api_keys` (a list of",
    ),
    Case(
        "a-flag-as-a-key",
        engine("--max-model-len: 1"),
        "unknown-key",
        4,
        3,
        "here it is `engine.session_len`",
    ),
    # keys that contradict each other
    Case(
        "step-under-batch",
        HEAD + "engine:\n  max_batch_size: 9\n  max_prefill_tokens: 8\n",
        "conflict",
        5,
        3,
        "`max_prefill_tokens: 9` or more",
    ),
    Case(
        "blocks-under-session",
        HEAD + "engine: {session_len: 4096, cache: {blocks: 9}}\n",
        "conflict",
        3,
        37,
        "`blocks: 64` or more, or `session_len: 576`",
    ),
    Case(
        "blocks-of-another-length",
        HEAD + "engine: {session_len: 99, cache: {blocks: 9, block_len: 8}}\n",
        "conflict",
        3,
        35,
        "`blocks: 13` or more",
    ),
    Case(
        "ratio-and-bytes",
        HEAD + "engine: {cache: {ratio: 0.5, bytes: 1GiB}}\n",
        "conflict",
        3,
        30,
        "keep one of them",
    ),
    Case(
        "bytes-and-blocks", HEAD + "engine: {cache: {blocks: 9, bytes: 1GiB}}\n", "conflict", 3, 29, "to null"
    ),
    Case("kv-bytes-of-no-unit", cache("bytes: 20"), "out-of-range", 5, 12, "write the unit: `bytes: 20GiB`"),
    Case(
        "memory-of-no-unit",
        "version: 1\nmodel: {id: a/b}\nrequires:\n  memory: 16\n",
        "out-of-range",
        4,
        11,
        "write the unit: `memory: 16GiB`",
    ),
    Case("bytes-without-unit", cache("bytes: 20G"), "invalid-value", 5, 12, "write `20GiB`"),
    Case(
        "block-of-a-cpu",
        HEAD + "engine: {device: cpu, cache: {block_len: 96}}\n",
        "conflict",
        3,
        31,
        "`block_len: 64`",
    ),
    Case(
        "block-of-a-gpu",
        HEAD + "engine: {device: cuda, cache: {block_len: 48}}\n",
        "conflict",
        3,
        32,
        "`block_len: 64`",
    ),
    Case(
        "rows-fill-a-step",
        HEAD + "engine: {max_batch_size: 16, max_step_tokens: 16}\n",
        "conflict",
        3,
        30,
        "`max_step_tokens: 17` or more, or `max_batch_size: 15` or less",
    ),
    Case(
        "prompts-over-a-step",
        HEAD + "engine: {max_prefill_tokens: 512, max_step_tokens: 128}\n",
        "conflict",
        3,
        10,
        "`max_prefill_tokens: 128` or less, or `max_step_tokens: 512`",
    ),
    Case(
        "chunks-under-a-session",
        HEAD + "engine: {session_len: 4096, max_prefill_tokens: 512, max_prefill_chunks: 4}\n",
        "conflict",
        3,
        54,
        "`max_prefill_tokens: 1024` or more",
    ),
    Case(
        "download-of-a-path",
        "version: 1\nmodel: {path: m, download_dir: d}\n",
        "conflict",
        2,
        18,
        "remove it, or name the model",
    ),
    Case(
        "open-without-key",
        server("host: 0.0.0.0"),
        "conflict",
        4,
        3,
        "`api_keys: [{env: DEPLOYKIT_API_KEY}]`",
    ),
    Case(
        "open-with-no-keys",
        HEAD + "server: {host: '::', api_keys: []}\n",
        "conflict",
        3,
        10,
        "`host: 127.0.0.1`",
    ),
    # values of the wrong type
    Case("text-for-number", engine("tp: two"), "wrong-type", 4, 7, None),
    Case("quoted-number", engine('tp: "2"'), "wrong-type", 4, 7, "without quotes: `2`"),
    Case("float-for-int", engine("tp: 2.0"), "wrong-type", 4, 7, "write `2`"),
    Case("bool-for-int", engine("tp: true"), "wrong-type", 4, 7, None),
    Case("yes-for-true", cache("prefix_caching: yes"), "wrong-type", 5, 21, "write `true`"),
    Case("off-for-false", cache("prefix_caching: off"), "wrong-type", 5, 21, "write `false`"),
    Case("number-for-text", "version: 1\nname: 12\nmodel: {id: a/b}\n", "wrong-type", 2, 7, '`"12"`'),
    Case("text-for-list", chat("stop: END"), "wrong-type", 5, 11, '`["END"]`'),
    Case("number-in-list", chat("stop: [a, 1]"), "wrong-type", 5, 15, '`"1"`'),
    Case(
        "id-for-model",
        "version: 1\nmodel: Qwen/Qwen3-8B\n",
        "wrong-type",
        2,
        8,
        "`model: {id: Qwen/Qwen3-8B}`",
    ),
    Case("folder-for-model", "version: 1\nmodel: ./m\n", "wrong-type", 2, 8, "`model: {path: ./m}`"),
    Case("list-for-section", HEAD + "engine:\n  - tp: 1\n", "wrong-type", 3, 1, None),
    Case("empty-section", HEAD + "engine:\n", "wrong-type", 3, 1, "remove it"),
    Case("empty-value", engine("tp:"), "wrong-type", 4, 3, "give a value, or remove the key"),
    Case("percentage", cache("ratio: 80%"), "wrong-type", 5, 12, "write `0.8`"),
    Case("timestamp-stays-text", engine("threads: 12:30"), "invalid-value", 4, 12, None),
    # values out of range
    Case("zero-tp", engine("tp: 0"), "out-of-range", 4, 7, None),
    Case("ratio-in-percent", cache("ratio: 80"), "out-of-range", 5, 12, "not a percentage: `0.8`"),
    Case("nan", chat("temperature: .nan"), "out-of-range", 5, 18, None),
    Case("infinite", chat("top_p: .inf"), "out-of-range", 5, 12, None),
    Case("overflow", chat("temperature: 1e999"), "out-of-range", 5, 18, None),
    Case("more-than-64-bits", engine(f"session_len: {2**63}"), "out-of-range", 4, 16, None),
    Case("absurdly-long-number", engine(f"session_len: {'9' * 9000}"), "out-of-range", 4, 16, None),
    Case("port", server("port: 70000"), "out-of-range", 4, 9, None),
    Case("no-sources", "version: 1\nmodel: {sources: []}\n", "out-of-range", 2, 18, None),
    Case("zero-threads", engine("threads: 0"), "out-of-range", 4, 12, None),
    Case("huge-size", server("limits: {max_body: 9999999GB}"), "out-of-range", 4, 22, None),
    # values that aren't among the choices, or not of the form
    Case("quant-policy-off", cache("quant_policy: off"), "invalid-value", 5, 19, "write `none`"),
    Case("quant-policy-false", cache("quant_policy: false"), "invalid-value", 5, 19, "write `none`"),
    Case("lm-head-off", engine("lm_head_dtype: off"), "invalid-value", 4, 18, "write `auto`"),
    Case("lm-head-gguf", engine("lm_head_dtype: q8_0"), "invalid-value", 4, 18, "write `int8`"),
    Case("quant-policy-typo", cache("quant_policy: int-8"), "invalid-value", 5, 19, "did you mean `int8`?"),
    Case("quant-policy-number", cache("quant_policy: 16"), "invalid-value", 5, 19, None),
    Case("backend", engine("backend: turbomind"), "invalid-value", 4, 12, "write `native`"),
    Case("device", engine("device: gpu"), "invalid-value", 4, 11, "write `cuda`"),
    Case("dtype", "version: 1\nmodel: {id: a/b, dtype: bf16}\n", "invalid-value", 2, 25, "write `bfloat16`"),
    Case("choice-in-capitals", engine("device: CPU"), "invalid-value", 4, 11, "write `cpu`"),
    Case("session-len-in-k", engine("session_len: 8k"), "invalid-value", 4, 16, "write `8192`"),
    Case("auto-typo", engine("session_len: atuo"), "invalid-value", 4, 16, "did you mean `auto`?"),
    Case("version", "version: 2\nmodel: {id: a/b}\n", "invalid-value", 1, 10, "version: 1"),
    Case("version-true", "version: true\nmodel: {id: a/b}\n", "invalid-value", 1, 10, "version: 1"),
    Case("name", "version: 1\nname: My Model\nmodel: {id: a/b}\n", "invalid-value", 2, 7, "`my-model`"),
    Case("hub-id", "version: 1\nmodel: {id: smollm2}\n", "invalid-value", 2, 13, None),
    Case("path-as-id", "version: 1\nmodel: {id: ../smollm2}\n", "invalid-value", 2, 13, "`model.path`"),
    Case("size", server("limits: {max_body: 32mb}"), "invalid-value", 4, 22, "write `32MB`"),
    Case("duration", server("drain_timeout: 30 seconds"), "invalid-value", 4, 18, "write `30s`"),
    Case("duration-days", server("drain_timeout: 0.5d"), "invalid-value", 4, 18, "write `12h`"),
    Case("empty-text", "version: 1\nmodel: {path: ''}\n", "invalid-value", 2, 15, None),
    # missing keys and conflicts
    Case("no-version", "name: x\nmodel: {id: a/b}\n", "missing-key", 1, 1, "add `version: 1`"),
    Case("no-model", "version: 1\n", "missing-key", 1, 1, "add `model:`"),
    Case("no-origin", "version: 1\nmodel: {dtype: auto}\n", "missing-key", 2, 1, "`id: owner/name`"),
    Case("two-origins", "version: 1\nmodel:\n  id: a/b\n  path: c\n", "conflict", 4, 3, "keep one"),
    Case(
        "revision-of-path", "version: 1\nmodel:\n  path: c\n  revision: v1\n", "conflict", 4, 3, "remove it"
    ),
    # the unions: one error, for the branch that was meant
    Case("source-incomplete", source("pypi: a==1", f"sha256: {SHA}"), "missing-key", 4, 7, "add `file:`"),
    Case(
        "source-unknown-key",
        source("hf: a/b", "revison: v1"),
        "unknown-key",
        5,
        7,
        "did you mean `revision`?",
    ),
    Case("source-foreign-key", source("path: m", "revision: v1"), "unknown-key", 5, 7, "`model`"),
    Case(
        "source-of-no-kind",
        source("file: x.gguf"),
        "missing-key",
        4,
        7,
        "add one of pypi, hf, modelscope, path",
    ),
    Case("source-misspelt", source("hff: a/b"), "unknown-key", 4, 7, "did you mean `hf`?"),
    Case("source-of-two-kinds", source("hf: a/b", "path: m"), "conflict", 5, 7, "two entries"),
    Case("source-is-text", source("a/b"), "wrong-type", 4, 7, None),
    Case("source-value", source("hf: a"), "invalid-value", 4, 11, None),
    Case("source-unpinned", source("pypi: a", "file: f", f"sha256: {SHA}"), "invalid-value", 4, 13, None),
    Case("api-key-in-plain", server("api_keys: [sk-123]"), "wrong-type", 4, 14, "{env: DEPLOYKIT_API_KEY}"),
    Case(
        "api-key-as-name", server("api_keys: [{env: sk-123}]"), "invalid-value", 4, 20, "never the key itself"
    ),
    # YAML itself
    Case("tab", "version: 1\nmodel:\n\tid: a/b\n", "yaml-tab", 3, 1, "spaces only"),
    Case("duplicate-key", HEAD + "version: 1\n", "duplicate-key", 3, 1, "first given on line 1"),
    Case("duplicate-in-flow", "version: 1\nmodel: {id: a/b, id: c/d}\n", "duplicate-key", 2, 18, "line 2"),
    Case("number-as-key", HEAD + "1: x\n", "key-not-text", 3, 1, '`"1"`'),
    Case("true-as-key", HEAD + "true: x\n", "key-not-text", 3, 1, '`"true"`'),
    Case("list-as-key", HEAD + "[a]: x\n", "key-not-text", 3, 1, None),
    Case("merge-key", HEAD + "<<: {name: x}\n", "merge-key", 3, 1, "alias a whole value"),
    Case("second-document", HEAD + "---\n" + HEAD, "several-documents", 3, 1, "a file of its own"),
    Case("unknown-alias", HEAD + "chat: *chta\n", "unknown-alias", 3, 7, None),
    Case("recursive-alias", HEAD + "chat: &c {defaults: *c}\n", "recursive-alias", 3, 21, None),
    Case("object-tag", HEAD + "name: !!python/object:os.system x\n", "yaml-tag", 3, 7, "remove the tag"),
    Case("open-quote", 'version: 1\nname: "x\nmodel: {id: a/b}\n', "yaml-syntax", 2, 7, 'close it with "'),
    Case("open-bracket", "version: 1\nmodel: {id: a/b\nname: x\n", "yaml-syntax", 2, 8, "close it with `}`"),
    Case("too-deep-indent", "version: 1\n  name: x\n", "yaml-syntax", 2, 3, "align"),
    Case("odd-indent", "version: 1\nmodel:\n    id: a/b\n  dtype: auto\n", "yaml-syntax", 4, 3, "0, 4"),
    Case("no-space-after-colon", "version:1\nmodel: {id: a/b}\n", "yaml-syntax", 1, 1, "colon and a space"),
    Case("second-colon", HEAD + "description: a: b\n", "yaml-syntax", 3, 15, "quotes"),
    Case("at-sign", HEAD + "description: @home\n", "yaml-syntax", 3, 14, "`'@home'`"),
    Case("bad-escape", HEAD + 'description: "C:\\models"\n', "yaml-syntax", 3, 17, "single quotes"),
    Case("lone-surrogate", HEAD + 'description: "\\ud800"\n', "yaml-syntax", 3, 17, None),
    Case("control-character", HEAD + "description: a\x1b[31m\n", "not-text", 3, 15, None),
    Case("nul-in-path", 'version: 1\nmodel: {path: "a\\0b"}\n', "not-text", 2, 15, None),
    Case("not-utf8", HEAD.encode() + b"name: caf\xe9\n", "not-utf8", 3, 10, "UTF-8"),
    Case("utf16", HEAD.encode("utf-16"), "not-utf8", 1, 1, "save it as UTF-8"),
    Case("binary", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not-utf8", 1, 1, None),
    Case("brackets", "[" * 1000, "too-deep", 1, 33, None),
    Case("braces", HEAD + "chat: " + "{a: " * 1000, "too-deep", 3, 128, None),
    Case("empty", "", "empty-recipe", None, None, "version: 1"),
    Case("comments-only", "# nothing\n", "empty-recipe", None, None, "version: 1"),
    Case("a-list", "- version: 1\n", "not-a-recipe", 1, 1, None),
    Case("a-word", "version:1\n", "not-a-recipe", 1, 1, "colon and a space"),
    Case("one-mebibyte", "#" * (1 << 20) + "\n", "too-large", None, None, None),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_one_mistake_one_error(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(case.text if isinstance(case.text, bytes) else case.text.encode())
    (found,) = check_files([file])
    assert (found.code, found.line, found.col) == (case.code, case.line, case.col)
    assert found.file == str(file)
    if case.help is not None:
        assert found.help is not None
        assert case.help in found.help


def test_a_conflict_points_at_every_place(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "version: 1\nmodel:\n  sources: [{hf: a/b, path: c}]\n  path: d\nengine:\n  session_len: 512\n  cache:\n"
        "    block_len: 8\n    blocks: 2\n    blocks: 3\n  max_batch_size: 99\nserver: {host: 0.0.0.0, api_keys: []}\n"
    )
    found = check_files([file], ["engine.max_prefill_tokens=3"])
    places = {
        (d.line, d.col): [(r.line, r.col, r.snippet[r.col - 1 :][: r.length]) for r in d.related]
        for d in found
    }
    assert places == {
        (3, 23): [(3, 14, "hf")],
        (4, 3): [(3, 3, "sources")],
        (9, 5): [(6, 3, "session_len"), (8, 5, "block_len")],
        (10, 5): [(9, 5, "blocks")],
        (12, 10): [(12, 25, "api_keys")],
        (None, 8): [(11, 3, "max_batch_size")],
    }


def test_a_credential_is_starred_in_every_place(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "server: {host: 0.0.0.0, api_key: sk-secret, host: 127.0.0.1}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert "sk-secret" not in str(caught.value)
    assert "first given here" in str(caught.value)
    assert not [r for d in caught.value.diagnostics for r in d.related if "sk-secret" in r.snippet]


def test_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for name, above in zip("bcdefgh", "abcdefg", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]")
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    (found,) = check_files([file])
    assert (found.code, found.line) == ("too-large", 4)


def test_all_errors_come_in_one_pass_and_in_order(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "version: 1\nname: Bad Name\nmodel:\n  id: a/b\n  path: c\n  dtype: bf16\n"
        "engine:\n  tp: 0\n  tp: 1\n  cache: {ratio: 2, quant_polcy: none}\nserver:\n  port: x\n"
    )
    found = [(d.code, d.line, d.col) for d in check_files([file])]
    assert found == [
        ("invalid-value", 2, 7),
        ("conflict", 5, 3),
        ("invalid-value", 6, 10),
        ("out-of-range", 8, 7),
        ("duplicate-key", 9, 3),
        ("out-of-range", 10, 18),
        ("unknown-key", 10, 21),
        ("wrong-type", 12, 9),
    ]


def test_ten_thousand_errors_are_counted_not_listed(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + "".join(f"key{n}: 1\n" for n in range(4000)))
    found = check_files([file])
    assert len(found) == 101
    assert "3900 more errors" in found[-1].message


def test_files_are_reported_in_the_order_given(tmp_path: Path) -> None:
    one, two = tmp_path / "b.yaml", tmp_path / "a.yaml"
    one.write_text("version: 3\nmodel: {id: a/b}\n")
    two.write_text(HEAD + "x: 1\n")
    assert [d.file for d in check_files([one, tmp_path / "none.yaml", two])] == [
        str(one),
        str(tmp_path / "none.yaml"),
        str(two),
    ]
