"""What stands outside of a recipe: commands, Python names and environment variables of other servers."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """`there` and `here` in Markdown; `here` is empty where there is nothing, and `note` says why."""

    owner: str
    there: str
    here: str
    note: str = ""


_NO_LITE = "take a checkpoint that is quantized already (`model.format`)"
_NO_ROUTER = "one deployment is one engine: any HTTP load balancer shares requests out among several"

# fmt: off
COMMANDS = (
    Row("LMDeploy", "`lmdeploy serve api_server MODEL`", "`deploykit up RECIPE`",
        "also of a folder, a `.gguf` file or a hub id; `-d` runs it in the background"),
    Row("LMDeploy", "`lmdeploy chat MODEL`", "`deploykit chat RECIPE`", "to a running deployment where there is one"),
    Row("LMDeploy", "`lmdeploy check_env`", "`deploykit doctor`", "judges each finding, and says how to fix it"),
    Row("LMDeploy", "`lmdeploy list`", "`deploykit templates list`", "the chat templates"),
    Row("LMDeploy", "`lmdeploy serve proxy`", "", _NO_ROUTER),
    Row("LMDeploy", "`lmdeploy lite auto_awq`, `auto_gptq`, `smooth_quant`", "", _NO_LITE),
    Row("LMDeploy", "`lmdeploy convert`", "", "checkpoints are loaded as they are"),
    Row("vLLM", "`vllm serve MODEL`", "`deploykit up RECIPE`"),
    Row("vLLM", "`vllm chat`, `vllm complete`", "`deploykit chat URL`"),
    Row("vLLM", "`vllm bench serve`", "`deploykit bench URL`", "`--dataset FILE.json` takes ShareGPT's format"),
    Row("vLLM", "`vllm collect-env`", "`deploykit doctor --json`"),
    Row("vLLM", "`vllm serve --config FILE`", "`deploykit up RECIPE`", "`validate` translates such a file's names"),
    Row("SGLang", "`python -m sglang.launch_server --model-path MODEL`", "`deploykit up RECIPE`"),
    Row("SGLang", "`python -m sglang.bench_serving`", "`deploykit bench URL`"),
    Row("SGLang", "`python -m sglang.check_env`", "`deploykit doctor`"),
    Row("SGLang", "`python -m sglang_router.launch_router`", "", _NO_ROUTER),
    Row("Ollama", "`ollama serve`, `ollama run MODEL`", "`deploykit up RECIPE`, `deploykit chat RECIPE`",
        "a deployment serves one model; nothing is loaded on demand"),
    Row("Ollama", "`ollama create -f Modelfile`", "a recipe", "it is read where it stands: there is nothing to create"),
    Row("Ollama", "`ollama ps`, `ollama stop MODEL`", "`deploykit ps`, `deploykit down NAME`"),
    Row("Ollama", "`ollama pull MODEL`", "`deploykit pull RECIPE`"),
    Row("Ollama", "`ollama list`, `ollama rm MODEL`", "`deploykit cache`"),
    Row("Ollama", "`ollama show MODEL`", "`deploykit plan RECIPE`, `deploykit templates show RECIPE`"),
    Row("TGI", "`text-generation-launcher --model-id MODEL`", "`deploykit up RECIPE`"),
    Row("TGI", "`text-generation-benchmark`", "`deploykit bench RECIPE`"),
    Row("TGI", "`text-generation-launcher --env`", "`deploykit doctor`"),
)

PYTHON = (
    Row("LMDeploy", "`lmdeploy.pipeline`", "`deploykit.pipeline`"),
    Row("LMDeploy", "`TurbomindEngineConfig`, `PytorchEngineConfig`", "`deploykit.EngineConfig`",
        "one class: its `backend` is `native`, `pytorch` or `auto`"),
    Row("LMDeploy", "`GenerationConfig`", "`deploykit.GenerationConfig`", "the same fields and defaults"),
    Row("LMDeploy", "`ChatTemplateConfig`", "`deploykit.ChatTemplateConfig`", "the same fields"),
    Row("LMDeploy", "`VisionConfig`", "", "images are not served"),
    Row("LMDeploy", "`lmdeploy.serve`, `lmdeploy.client`", "`deploykit up`", "OpenAI's client talks to it"),
    Row("vLLM", "`LLM(model=…)`, `llm.generate`, `llm.chat`", "`deploykit.pipeline`",
        "`pipe(prompts)`; `do_preprocess=False` for texts as they are"),
    Row("vLLM", "`SamplingParams`", "`deploykit.GenerationConfig`",
        "`max_tokens` is `max_new_tokens`, `seed` is `random_seed`, `stop` is `stop_words`"),
    Row("vLLM", "`EngineArgs`, `AsyncEngineArgs`", "`deploykit.EngineConfig`"),
    Row("vLLM", "`AsyncLLMEngine`", "`deploykit.pipeline`", "`ainfer` and `astream`"),
    Row("SGLang", "`sglang.Engine(model_path=…)`", "`deploykit.pipeline`"),
    Row("SGLang", "`ServerArgs`", "a recipe, or `deploykit.EngineConfig`"),
    Row("Ollama", "`ollama.chat`, `ollama.generate`", "OpenAI's client",
        "with `base_url=\"http://127.0.0.1:23333/v1\"`; Ollama's own routes are not served"),
    Row("TGI", "`huggingface_hub.InferenceClient`", "the same client", "`chat_completion`; `/generate` is not served"),
)

ENVIRONMENT = (
    Row("LMDeploy", "`LMDEPLOY_USE_MODELSCOPE`", "`DEPLOYKIT_USE_MODELSCOPE`"),
    Row("LMDeploy", "`SSL_KEYFILE`, `SSL_CERTFILE`", "", "the endpoint speaks plain HTTP: a proxy has the certificate"),
    Row("LMDeploy", "`TM_LOG_LEVEL`", "`server.log_level`"),
    Row("LMDeploy", "`LMDEPLOY_FETCH_TIMEOUT`", "", "no image is fetched"),
    Row("vLLM", "`VLLM_USE_MODELSCOPE`", "`DEPLOYKIT_USE_MODELSCOPE`"),
    Row("vLLM", "`VLLM_CACHE_ROOT`", "`DEPLOYKIT_CACHE`"),
    Row("vLLM", "`VLLM_API_KEY`", "`server.api_keys: [{env: VLLM_API_KEY}]`", "the variable's name is yours to choose"),
    Row("vLLM", "`VLLM_LOGGING_LEVEL`", "`server.log_level`"),
    Row("vLLM", "`VLLM_ATTENTION_BACKEND`", "", "kernels are picked by the device and the shapes"),
    Row("vLLM", "`VLLM_CPU_KVCACHE_SPACE`", "`engine.cache.blocks`", "there in GiB, here in blocks"),
    Row("vLLM", "`VLLM_CPU_OMP_THREADS_BIND`", "`engine.threads`", "a number of threads; no cores are named"),
    Row("vLLM", "`VLLM_NO_USAGE_STATS`, `DO_NOT_TRACK`", "", "no statistics are sent anywhere"),
    Row("SGLang", "`SGLANG_USE_MODELSCOPE`", "`DEPLOYKIT_USE_MODELSCOPE`"),
    Row("Ollama", "`OLLAMA_HOST`", "`server.host`, `server.port`", "127.0.0.1:11434 there, 127.0.0.1:23333 here"),
    Row("Ollama", "`OLLAMA_MODELS`", "`DEPLOYKIT_CACHE`"),
    Row("Ollama", "`OLLAMA_CONTEXT_LENGTH`", "`engine.session_len`"),
    Row("Ollama", "`OLLAMA_NUM_PARALLEL`", "`engine.max_batch_size`", "each request may hold a whole session"),
    Row("Ollama", "`OLLAMA_MAX_QUEUE`", "`server.limits.max_queue`", "512 there, 256 here"),
    Row("Ollama", "`OLLAMA_KV_CACHE_TYPE`", "`engine.cache.quant_policy`", "`q8_0` is `int8`, `q4_0` is `int4`"),
    Row("Ollama", "`OLLAMA_KEEP_ALIVE`", "", "a deployment serves until `deploykit down`"),
    Row("Ollama", "`OLLAMA_MAX_LOADED_MODELS`", "", "a deployment is one model: start several"),
    Row("Ollama", "`OLLAMA_ORIGINS`", "", "no CORS header is sent"),
    Row("Ollama", "`OLLAMA_FLASH_ATTENTION`, `OLLAMA_LLM_LIBRARY`", "", "kernels are picked by the device"),
    Row("Ollama", "`OLLAMA_DEBUG`", "`server.log_level: debug`", "`DEPLOYKIT_DEBUG=1` adds an error's traceback"),
    Row("TGI", "each option in capitals: `MODEL_ID`, `NUM_SHARD`, …", "the recipe's key, or `--set KEY=VALUE`",
        "the environment changes no key of a recipe"),
    Row("TGI", "`HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`", "`DEPLOYKIT_CACHE`"),
    Row("all", "`HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`", "the same", "[sources](sources.md)"),
    Row("all", "`CUDA_VISIBLE_DEVICES`", "the same"),
)
# fmt: on
