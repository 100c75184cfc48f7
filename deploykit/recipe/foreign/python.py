"""Python names of other servers, and what somebody who imports one of them from deploykit meant."""

from __future__ import annotations

from functools import partial

from .outside import Row

_L, _V, _S, _O, _T = (partial(Row, owner) for owner in ("LMDeploy", "vLLM", "SGLang", "Ollama", "TGI"))
_ENGINE = "one class: its `backend` is `native`, `pytorch` or `auto`"

# fmt: off
PYTHON = (
    _L(("lmdeploy.pipeline",), "`deploykit.pipeline`"),
    _L(("TurbomindEngineConfig", "PytorchEngineConfig"), "`deploykit.EngineConfig`", _ENGINE),
    _L(("lmdeploy.GenerationConfig",), "`deploykit.GenerationConfig`", "the same fields and defaults"),
    _L(("lmdeploy.ChatTemplateConfig",), "`deploykit.ChatTemplateConfig`", "the same fields"),
    _L(("lmdeploy.Pipeline",), "`deploykit.Pipeline`", "what `deploykit.pipeline` returns"),
    _L(("VisionConfig",), "", "images are not served, by no engine of this version"),
    _L(("SpeculativeConfig",), "", "there is no speculative decoding"),
    _L(("lmdeploy.serve", "lmdeploy.client", "APIClient"), "`deploykit up`", "OpenAI's client talks to it"),
    _L(("MODELS",), "`deploykit.register_template`", "the registry of chat templates"),
    _V(("LLM", "AsyncLLMEngine", "AsyncLLM", "LLMEngine"), "`deploykit.pipeline`",
       "`pipe(prompts)`, `ainfer` and `astream`; `do_preprocess=False` for texts as they are"),
    _V(("SamplingParams", "BeamSearchParams"), "`deploykit.GenerationConfig`",
       "`max_tokens` is `max_new_tokens`, `seed` is `random_seed`, `stop` is `stop_words`"),
    _V(("EngineArgs", "AsyncEngineArgs"), "`deploykit.EngineConfig`"),
    _V(("RequestOutput", "CompletionOutput"), "`deploykit.Response`"),
    _V(("LoRARequest",), "", "adapters (LoRA) are not served: merge them into the weights"),
    _S(("Engine", "Runtime"), "`deploykit.pipeline`", "of `sglang`"),
    _S(("ServerArgs",), "`deploykit.EngineConfig`", "or a recipe"),
    _O(("ollama.chat", "ollama.generate", "ollama.Client", "ollama.AsyncClient"), "OpenAI's client",
       'with `base_url="http://127.0.0.1:23333/v1"`; Ollama\'s own routes are not served'),
    _T(("InferenceClient", "AsyncInferenceClient"), "the same client", "`chat_completion`; `/generate` is not served"),
)
# fmt: on


def attribute(name: str) -> str | None:
    """What another server's Python name is here, in a sentence; None for a name that none has."""
    for row in PYTHON:
        for known in row.names:
            if known.rpartition(".")[2] == name:
                return f"`{known}` is {row.owner}'s: {row.words}"
    return None
