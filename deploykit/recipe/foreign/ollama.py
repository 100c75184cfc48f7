"""Ollama: a Modelfile's instructions and parameters, and llama.cpp's, which the parameters come from."""

from __future__ import annotations

from functools import partial

from .entry import KERNELS, KV, LISTED, LORA, NEAR, OFFLOAD, REQUEST, SAME, Convert, Foreign

_F = partial(Foreign, owner="Ollama")
_L = partial(Foreign, owner="llama.cpp")
_LEN = (
    "`auto` is the length that the model was trained for, as far as memory has room; a short one cuts prompts"
)
_LAST = "penalties look at the whole of prompt and answer"
_OWN = "the checkpoint's generation_config.json, else OpenAI's default: no sampling of our own"
_NO_SAMPLER = "there is no such sampler: `top_p`, `top_k` and `min_p` are there"

# fmt: off
OLLAMA = (
    _F("from", here="model.path", note="`model.id` for a Hugging Face id; a name of Ollama's library is no model here",
       convert=Convert("a `.gguf` file or a folder: `model: {path: …}`")),
    _F("system", here="chat.system", theirs="none", convert=SAME),
    _F("template", here="chat.template", theirs="the model's", note="a Jinja file or a built-in's name, no Go template",
       convert=Convert("the checkpoint's own is usually right; else a `.jinja` file"),
       why="`auto` is the checkpoint's own as well"),
    _F("adapter", here=None, note=LORA),
    _F("message", here=None, note="a conversation brings its own messages"),
    _F("num_ctx", here="engine.session_len", theirs="2048", convert=SAME, why=_LEN),
    _F("num_predict", here="chat.defaults.max_tokens", theirs="-1", why="`null` ends with the session, as -1 there",
       convert=Convert("as it is; -1 becomes `null`", lambda v: v if isinstance(v, int) and v > 0 else None)),
    _F("num_batch", here="engine.max_prefill_tokens", theirs="512", convert=NEAR, note="prompt tokens of one step",
       why="512 on a CPU too; on a GPU it is larger"),
    _F("num_thread", here="engine.threads", theirs="by the machine", convert=SAME),
    _F("num_gpu", here=None, theirs="by the machine", note=OFFLOAD),
    _F("main_gpu", here=None, theirs="0", note="the environment variable CUDA_VISIBLE_DEVICES picks the GPUs"),
    _F("num_keep", here=None, theirs="4", note="a conversation longer than the session is an error, and never cut"),
    _F("temperature", here="chat.defaults.temperature", theirs="0.8", convert=SAME, why=_OWN),
    _F("top_k", here="chat.defaults.top_k", theirs="40", convert=SAME, why=_OWN),
    _F("top_p", here="chat.defaults.top_p", theirs="0.9", convert=SAME, why=_OWN),
    _F("min_p", here="chat.defaults.min_p", theirs="0.0", convert=SAME, why=_OWN),
    _F("stop", here="chat.defaults.stop", theirs="the model's", note="a list", convert=LISTED,
       why="the model's own ends are always there"),
    _F("repeat_penalty", here="chat.defaults.repetition_penalty", theirs="1.0", convert=SAME, why=_OWN),
    _F("repeat_last_n", here=None, theirs="64", note=_LAST),
    _F("seed", here=None, theirs="0", note=REQUEST),
    _F("mirostat", here=None, theirs="0", note=_NO_SAMPLER),
    _F("mirostat_eta", here=None, theirs="0.1", note=_NO_SAMPLER),
    _F("mirostat_tau", here=None, theirs="5.0", note=_NO_SAMPLER),
    _F("tfs_z", here=None, theirs="1", note=_NO_SAMPLER),
    _F("typical_p", here=None, theirs="1.0", note=_NO_SAMPLER),
    _F("draft_num_predict", here=None, theirs="4", note="there is no speculative decoding"),
    _F("use_mmap", here=None, theirs="true", note="weights are mapped wherever they can be"),
    _F("use_mlock", here=None, theirs="false", note="memory is planned, and never locked"),
    _F("keep_alive", here=None, theirs="5m", note="a deployment serves until `deploykit down`"),
    _L("n_ctx", here="engine.session_len", theirs="the model's", convert=SAME),
    _L("ctx_size", here="engine.session_len", theirs="the model's", convert=SAME),
    _L("n_predict", here="chat.defaults.max_tokens", theirs="-1", why="`null` ends with the session, as -1 there",
       convert=Convert("as it is; -1 becomes `null`", lambda v: v if isinstance(v, int) and v > 0 else None)),
    _L("n_batch", here="engine.max_prefill_tokens", theirs="2048", convert=NEAR, note="prompt tokens of one step",
       why="512 on a CPU; on a GPU it is larger"),
    _L("n_ubatch", here="engine.max_prefill_tokens", theirs="512", convert=NEAR, note="prompt tokens of one step",
       why="512 on a CPU too; on a GPU it is larger"),
    _L("n_threads", here="engine.threads", theirs="by the machine", convert=SAME),
    _L("n_parallel", here="engine.max_batch_size", theirs="1", convert=NEAR,
       note="each request may hold `session_len` tokens: it isn't shared out among them",
       why="requests run together wherever there is memory"),
    _L("cache_type_k", here="engine.cache.quant_policy", theirs="f16", note="K and V have one policy; `k8v4` is K in "
       "8 bits and V in 4", convert=KV, why="`none` is the model's own precision"),
    _L("cache_type_v", here="engine.cache.quant_policy", theirs="f16", note="K and V have one policy; `k8v4` is K in "
       "8 bits and V in 4", convert=KV, why="`none` is the model's own precision"),
    _L("n_gpu_layers", here=None, theirs="by the machine", note="a model is wholly on `engine.device`"),
    _L("tensor_split", here=None, theirs="none", note="a model is split evenly, by `engine.tp`"),
    _L("flash_attn", here=None, theirs="auto", note=KERNELS),
    _L("rope_freq_scale", here=None, theirs="the model's", note="`engine.rope_scaling_factor` stretches a session"),
)
# fmt: on
