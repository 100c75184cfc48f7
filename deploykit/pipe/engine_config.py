"""EngineConfig: the recipe's `engine` keys (and `model.dtype`) as keyword arguments."""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from deploykit.pipe.errors import InvalidField, known_fields
from deploykit.recipe import RecipeError, recipe_from_data
from deploykit.recipe.foreign import FOREIGN_KEYS

# Field -> key of the recipe. A test holds that every key of the two sections is here.
KEYS = {
    "backend": "engine.backend",
    "device": "engine.device",
    "dtype": "model.dtype",
    "tp": "engine.tp",
    "session_len": "engine.session_len",
    "max_batch_size": "engine.max_batch_size",
    "max_prefill_tokens": "engine.max_prefill_tokens",
    "max_step_tokens": "engine.max_step_tokens",
    "max_prefill_chunks": "engine.max_prefill_chunks",
    "threads": "engine.threads",
    "rope_scaling_factor": "engine.rope_scaling_factor",
    "use_logn_attn": "engine.use_logn_attn",
    "lm_head_dtype": "engine.lm_head_dtype",
    "cache_ratio": "engine.cache.ratio",
    "cache_bytes": "engine.cache.bytes",
    "cache_blocks": "engine.cache.blocks",
    "cache_block_len": "engine.cache.block_len",
    "quant_policy": "engine.cache.quant_policy",
    "prefix_caching": "engine.cache.prefix_caching",
}
_FIELD_OF = {key: field for field, key in KEYS.items()}


def _foreign() -> dict[str, str]:
    """What is said of other programs' names: the recipe's own hints, with our fields in place of its keys."""
    hints: dict[str, str] = {
        "download_dir": _elsewhere("model.download_dir"),
        "revision": _elsewhere("model.revision"),
        "eager_mode": "the engine decides by itself whether it records graphs",
        "async_": "the engine decides by itself whether it plans a step ahead",
        "num_gpu_blocks": "did you mean `cache_blocks`?",
        "num_cpu_blocks": "KV memory is on one device: `cache_blocks`",
        "thread_safe": "a pipe is always safe from several threads",
        "hf_overrides": "a checkpoint's config.json is taken as it is",
        "adapters": "adapters are not served",
        **dict.fromkeys(("dp", "cp", "ep"), "a model is split by `tp` alone"),
    }
    for name, foreign in FOREIGN_KEYS.items():
        if foreign.here is None:
            hints[name] = foreign.note
        elif foreign.here in _FIELD_OF:
            note = f" ({foreign.note})" if foreign.note else ""
            hints[name] = f"did you mean `{_FIELD_OF[foreign.here]}`?{note}"
        else:
            hints[name] = _elsewhere(foreign.here)
    return hints


def _elsewhere(key: str) -> str:
    return f'that is no setting of the engine: write it in a recipe, or pipeline(…, sets=["{key}=…"])'


@known_fields(_foreign())
@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the engine is set up. A field that is left out is the recipe's; see `engine` in docs/recipes.md for each.

    Raises InvalidField (a ValueError) for a value that a recipe could not have, and TypeError for a field that
    doesn't exist. Whether the machine can serve it is decided by the plan, when the pipe is made.
    """

    backend: Literal["auto", "native", "pytorch"] | None = None
    device: Literal["auto", "cuda", "cpu"] | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    """Weights and activations."""
    tp: int | None = None
    """Tensor parallel degree."""
    session_len: int | Literal["auto"] | None = None
    """Tokens that a request may hold, prompt and answer."""
    max_batch_size: int | Literal["auto"] | None = None
    """Requests that run at once."""
    max_prefill_tokens: int | Literal["auto"] | None = None
    """Prompt tokens that one step reads."""
    max_step_tokens: int | Literal["auto"] | None = None
    """Tokens of one step: requests that decode first, prompts get the rest."""
    max_prefill_chunks: int | None = None
    """Steps that reading a prompt takes at most."""
    threads: int | Literal["auto"] | None = None
    """Compute threads on a CPU."""
    rope_scaling_factor: float | None = None
    """Dynamic NTK scaling, for longer sessions than trained."""
    use_logn_attn: bool | None = None
    """Log-n attention scaling; left out, it is what the checkpoint says."""
    lm_head_dtype: Literal["auto", "int8"] | None = None
    """Precision of the output head; "auto" is as the checkpoint stores it."""
    cache_ratio: float | None = None
    """Share for KV of the memory that weights and steps leave free."""
    cache_bytes: int | str | None = None
    """Size of the KV memory, such as "20GiB", instead of a share."""
    cache_blocks: int | None = None
    """Number of KV blocks, instead of a share."""
    cache_block_len: int | None = None
    """Tokens a block."""
    quant_policy: Literal["none", "int8", "k8v4", "int4", "fp8", 0, 4, 8] | None = None
    """Precision of KV memory."""
    prefix_caching: bool | None = None
    """Reuse the KV of prompts that start alike."""

    def __post_init__(self) -> None:
        if not (settings := self.settings()):
            return
        try:
            recipe_from_data({"version": 1, "model": {"path": "."}}, "EngineConfig", settings)
        except RecipeError as error:
            first = error.diagnostics[0]
            key = (first.snippet or "").partition("=")[0]
            field = _FIELD_OF.get(key, key)
            raise InvalidField(field, first.message.replace(key, field), fix=first.help) from None

    def settings(self) -> list[str]:
        """What was given as `KEY=VALUE` over a recipe."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return [f"{KEYS[name]}={json.dumps(v, default=repr)}" for name, v in given.items() if v is not None]

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = (f"{name}={value!r}" for name, value in given.items() if value is not None)
        return f"EngineConfig({', '.join(shown)})"
